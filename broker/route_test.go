package broker

import (
	"strings"
	"testing"
)

func TestReadRoute(t *testing.T) {
	good := map[string]route{
		"app.example.com":             {Host: "app.example.com"},
		"https://App.Example.com./a/": {Host: "app.example.com", Path: "/a"},
		"10.1.2.3:8080/x/y":           {Host: "10.1.2.3", Port: 8080, Path: "/x/y"},
		"http://app:80":               {Host: "app", Port: 80},
	}
	for text, want := range good {
		if got, err := readRoute(text); err != nil || got != want {
			t.Errorf("%q is %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "/", "a b", "a;b", "a:", "a:0", "a:65536", "a:b", "[::1]", "127.1", "1.2.3.4.5", "0x7f.1.1.1.9", "a/$b", "user@host", "a..b", "-a", "a/\n", "ftp://a"} {
		if got, err := readRoute(text); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

func FuzzReadRoute(f *testing.F) {
	for _, text := range []string{"app.example.com/a", "https://x:1/", "1.2.3.4:80", "a;b", "[::1]:80"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := readRoute(text)
		if err != nil {
			return
		}
		for _, c := range r.Host + r.Path {
			if c <= ' ' || c > '~' || strings.ContainsRune("\"'`$;{}()<>\\|&*?#%@", c) {
				t.Errorf("%q became %+v", text, r)
			}
		}
		if again, err := readRoute(r.Host + r.Path); err != nil || again.Host != r.Host || again.Path != r.Path {
			t.Errorf("%q became %+v, which becomes %+v, %v", text, r, again, err)
		}
	})
}
