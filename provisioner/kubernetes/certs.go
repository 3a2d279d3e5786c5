package kubernetes

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/remuda/remuda/provisioner/agent"
)

// Authority signs the certificates of agents, and of those who give them orders.
type Authority struct {
	Certificate *x509.Certificate
	key         crypto.Signer
}

// NewAuthority makes one that is valid for the time.
func NewAuthority(valid time.Duration) (*Authority, error) {
	template := certificate("remuda agents", valid)
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Authority{Certificate: cert, key: key}, err
}

func certificate(name string, valid time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // never fails
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-skew), NotAfter: now.Add(valid)}
}

// skew is how much clocks may differ: certificates are valid so long before they are made.
const skew = 5 * time.Minute

// Made is when an authority or a certificate of it was made.
func Made(c *x509.Certificate) time.Time { return c.NotBefore.Add(skew) }

// Old says whether two thirds of a certificate's time are over.
func Old(c *x509.Certificate, now time.Time) bool {
	return now.After(Made(c).Add(c.NotAfter.Sub(Made(c)) * 2 / 3))
}

// PEM of the certificate and of the key.
func (a *Authority) PEM() (certificate, key []byte, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	return certificatePEM(a.Certificate.Raw), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// ParseAuthority reads what PEM gave.
func ParseAuthority(certificate, key []byte) (*Authority, error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("authority of the agents: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("authority of the agents: its key cannot sign")
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	return &Authority{Certificate: cert, key: signer}, err
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Bundle is the certificates of all authorities.
func Bundle(all []*Authority) []byte {
	var b bytes.Buffer
	for _, a := range all {
		b.Write(certificatePEM(a.Certificate.Raw))
	}
	return b.Bytes()
}

// Agent makes the identity of the agents of a group: a server's, which gives no orders.
func (a *Authority) Agent(group string, valid time.Duration, bundle []byte) (agent.Identity, error) {
	return a.issue(agent.AgentName(group), x509.ExtKeyUsageServerAuth, valid, bundle)
}

// Orders makes the identity of those who give orders: a client's.
func (a *Authority) Orders(valid time.Duration, bundle []byte) (agent.Identity, error) {
	return a.issue(agent.OrdersName, x509.ExtKeyUsageClientAuth, valid, bundle)
}

func (a *Authority) issue(name string, usage x509.ExtKeyUsage, valid time.Duration, bundle []byte) (agent.Identity, error) {
	template := certificate(name, valid)
	if end := a.Certificate.NotAfter; template.NotAfter.After(end) {
		template.NotAfter = end
	}
	template.DNSNames, template.ExtKeyUsage, template.KeyUsage = []string{name}, []x509.ExtKeyUsage{usage}, x509.KeyUsageDigitalSignature
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return agent.Identity{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, key.Public(), a.key)
	if err != nil {
		return agent.Identity{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return agent.Identity{}, err
	}
	return agent.Identity{Certificate: string(certificatePEM(der)),
		Key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})), Authorities: string(bundle)}, nil
}

// Renewable says whether a certificate must be made anew: two thirds of its time are
// over, it is of none of the authorities, or it cannot be read.
func Renewable(certificate string, all []*Authority, now time.Time) bool {
	block, _ := pem.Decode([]byte(certificate))
	if block == nil {
		return true
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || Old(cert, now) {
		return true
	}
	for _, a := range all {
		if cert.CheckSignatureFrom(a.Certificate) == nil {
			return false
		}
	}
	return true
}

// OrdersConfig is how somebody with the identity speaks to the agents of a group, and to
// those alone.
func OrdersConfig(i agent.Identity, group string) (*tls.Config, error) {
	pair, err := tls.X509KeyPair([]byte(i.Certificate), []byte(i.Key))
	if err != nil {
		return nil, fmt.Errorf("identity for orders: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(i.Authorities)) {
		return nil, errors.New("identity for orders: no authorities")
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: agent.AgentName(group)}, nil
}
