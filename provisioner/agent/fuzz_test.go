package agent

import (
	"encoding/json"
	"os"
	"testing"
)

func FuzzRequests(f *testing.F) {
	f.Add([]byte(`{"generation":1,"user":"u","files":{"/run/x":"y"},"ports":[1]}`))
	f.Add([]byte(`[{"name":"d","port":1,"target":2}]`))
	f.Add([]byte(`{"command":["x"],"stdin":"\u0000"}{}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var s StartRequest
		if decodeBytes(body, &s) == nil && s.validate("/run/agent") == nil {
			for name := range s.Files {
				if len(name) < 6 || name[:5] != "/run/" {
					t.Errorf("file %q", name)
				}
			}
		}
		var p Program
		_ = decodeBytes(body, &p)
		if list, err := parseDoors(body); err == nil {
			if _, err := json.Marshal(list); err != nil {
				t.Error(err)
			}
		}
	})
}

func FuzzProc(f *testing.F) {
	for _, name := range []string{"self/stat", "self/mountinfo", "self/net/tcp", "self/net/unix", "sysvipc/shm"} {
		data, _ := os.ReadFile("/proc/" + name)
		f.Add(data)
	}
	f.Add([]byte("root:x:0:0:root:/root:/bin/sh\n"))
	f.Add([]byte("7 (a) b) S 1 2 3 4"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parseStat(data)
		parseMounts(data)
		parseUnix(data, nil)
		parseDiag(data)
		for _, name := range []string{"tcp", "udp6"} {
			parseInet(data, name, nil)
		}
		for _, kind := range []string{"shm", "sem", "msg"} {
			parseSysv(data, kind)
		}
		parsePasswd(data, "root")
		parseGroups(data, "root")
		files, _ := parseRights(nil)
		if len(files) != 0 {
			t.Error("files from nothing")
		}
	})
}
