package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner/backendtest"
)

// open follows a link as a browser does and returns the page at its end.
func open(t *testing.T, link string) (status int, page string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := browser.Get(link)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(res.Request.URL.String(), "token") {
		t.Errorf("the token stays in the address bar: %s", res.Status)
	}
	return res.StatusCode, string(text)
}

// An instance has a page that shows its real server, a limit holds, and all that
// was asked for is recorded, also after the broker was killed.
func TestDashboardAuditAndLimits(t *testing.T) {
	h := newHost(t, backendtest.Binary(t), "offerings: [redis]\npools: {default: {floor: 0}, redis/small: {floor: 1}}\nlimits: {offerings: {redis: {per_space: 1}}}")
	h.start()
	h.settled(2*time.Minute, 1)
	p := h.plan("redis", "small")
	first := h.provision("shop", p)
	h.want("provision", first, 201)
	link, _ := first.body["dashboard_url"].(string)
	h.want("one too many", h.provision("more", p), 422)
	c, res := h.bind("shop", "web", p)
	h.want("bind", res, 201)

	h.kill()
	h.start()
	if again, _ := h.provision("shop", p).body["dashboard_url"].(string); again != link || link == "" {
		t.Errorf("dashboard_url was %q and is %q", link, again)
	}
	status, page := open(t, link)
	if status != 200 {
		t.Fatalf("%d: %s", status, page)
	}
	for _, want := range []string{"Ready to accept connections", "healthy", "web", address(c), "Memory: "} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	if strings.Contains(page, fmt.Sprint(c["password"])) {
		t.Error("the page shows the password")
	}
	out, err := h.run("dashboard", "shop")
	if err != nil {
		t.Fatal(out)
	}
	if status, _ := open(t, strings.TrimSpace(out)); status != 200 {
		t.Errorf("an operator's link: %d", status)
	}
	h.want("unbind", h.unbind("shop", "web", p), 200)
	h.want("deprovision", h.deprovision("shop", p), 200)
	if res, err := http.Get(link); err != nil || res.StatusCode != 403 {
		t.Errorf("the link of a deleted instance: %v, %v", res, err)
	} else {
		res.Body.Close()
	}
	if out, err = h.run("audit"); err != nil {
		t.Fatal(out)
	}
	var got []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		got = append(got, strings.Join([]string{f[2], f[3], f[4], f[5], f[6]}, " "))
	}
	want := "OPERATION INSTANCE BINDING STATUS RESULT\ndeprovision shop - 200 deleted\nunbind shop web 200 deleted\nprovision shop - 200 unchanged\n" +
		"bind shop web 201 created\nprovision more - 422 refused\nprovision shop - 201 created"
	if strings.Join(got, "\n") != want {
		t.Errorf("audit shows\n%s", out)
	}
	if out, err = h.run("audit", "--verify"); err != nil || !strings.Contains(out, "1 to 6 are as they were written") {
		t.Errorf("%s%v", out, err)
	}
}
