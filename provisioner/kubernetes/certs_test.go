package kubernetes

import (
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner/agent"
)

func parse(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("no PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Identities say what their bearer may do, and nothing more.
func TestIdentities(t *testing.T) {
	a, err := NewAuthority(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	bundle := Bundle([]*Authority{a})
	roots := x509.NewCertPool()
	roots.AddCert(a.Certificate)
	orders, err := a.Orders(time.Minute, bundle)
	if err != nil {
		t.Fatal(err)
	}
	own, err := a.Agent("abc", time.Minute, bundle)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		text  string
		name  string
		usage x509.ExtKeyUsage
		good  bool
	}{
		{"orders give orders", orders.Certificate, agent.OrdersName, x509.ExtKeyUsageClientAuth, true},
		{"orders are no agent", orders.Certificate, agent.OrdersName, x509.ExtKeyUsageServerAuth, false},
		{"an agent serves", own.Certificate, agent.AgentName("abc"), x509.ExtKeyUsageServerAuth, true},
		{"an agent gives no orders", own.Certificate, agent.AgentName("abc"), x509.ExtKeyUsageClientAuth, false},
		{"an agent is of its group", own.Certificate, agent.AgentName("abd"), x509.ExtKeyUsageServerAuth, false},
		{"an agent has not the name for orders", own.Certificate, agent.OrdersName, x509.ExtKeyUsageServerAuth, false},
	} {
		_, err := parse(t, c.text).Verify(x509.VerifyOptions{Roots: roots, DNSName: c.name, KeyUsages: []x509.ExtKeyUsage{c.usage}})
		if (err == nil) != c.good {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	if parse(t, own.Certificate).IsCA {
		t.Error("an agent's certificate signs others")
	}
}

func TestRenewable(t *testing.T) {
	a, _ := NewAuthority(time.Hour)
	other, _ := NewAuthority(time.Hour)
	i, err := a.Agent("abc", 30*time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, c := range []struct {
		what string
		text string
		all  []*Authority
		at   time.Time
		want bool
	}{
		{"new", i.Certificate, []*Authority{other, a}, now, false},
		{"before two thirds", i.Certificate, []*Authority{a}, now.Add(19 * time.Minute), false},
		{"after two thirds", i.Certificate, []*Authority{a}, now.Add(21 * time.Minute), true},
		{"of another authority", i.Certificate, []*Authority{other}, now, true},
		{"none", "", []*Authority{a}, now, true},
		{"not a certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", []*Authority{a}, now, true},
	} {
		if got := Renewable(c.text, c.all, c.at); got != c.want {
			t.Errorf("%s: %t, want %t", c.what, got, c.want)
		}
	}
}

// An authority comes back from what PEM writes, and signs.
func TestAuthorityPEM(t *testing.T) {
	a, _ := NewAuthority(time.Hour)
	certificate, key, err := a.PEM()
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseAuthority(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	i, err := b.Orders(time.Minute, certificate)
	if err != nil {
		t.Fatal(err)
	}
	if err := parse(t, i.Certificate).CheckSignatureFrom(a.Certificate); err != nil {
		t.Error(err)
	}
	if _, err := ParseAuthority(key, certificate); err == nil {
		t.Error("a key is taken for a certificate")
	}
}
