package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// authority signs the certificates of a cluster.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// users are the kubeconfigs: who in which group.
var users = []struct{ file, name, group string }{
	{"admin", "admin", "system:masters"},
	{"controllers", "system:kube-controller-manager", ""},
	{"scheduler", "system:kube-scheduler", ""},
	{"kubelet", "system:node:" + NodeName, "system:nodes"},
	{"proxy", "system:kube-proxy", ""},
	{"policies", "policies", "system:masters"},
}

func (c *Cluster) writeCredentials() error {
	a := &authority{dir: c.path("pki")}
	if err := a.write("ca", &x509.Certificate{
		Subject: pkix.Name{CommonName: "cluster"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}); err != nil {
		return err
	}
	server := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		DNSNames:    []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
		IPAddresses: []net.IP{net.ParseIP(NodeAddress), net.ParseIP("10.96.0.1"), net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if err := a.write("apiserver", server); err != nil {
		return err
	}
	server.Subject.CommonName, server.DNSNames = NodeName, []string{NodeName}
	if err := a.write("kubelet-server", server); err != nil {
		return err
	}
	if err := a.write("accounts", &x509.Certificate{Subject: pkix.Name{CommonName: "service accounts"}}); err != nil {
		return err
	}
	for _, user := range users {
		subject := pkix.Name{CommonName: user.name}
		if user.group != "" {
			subject.Organization = []string{user.group}
		}
		if err := a.write(user.file, &x509.Certificate{
			Subject: subject, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}); err != nil {
			return err
		}
		if err := c.writeKubeconfig(user.file); err != nil {
			return err
		}
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return err
	}
	if !c.opts.InPlace {
		config.Dial = c.Dial
	}
	config.QPS = -1                       // no limit
	config.UserAgent = "cluster-of-tests" // in the audit log
	c.config = config
	return nil
}

func (c *Cluster) writeKubeconfig(user string) error {
	read := func(name string) []byte {
		b, _ := os.ReadFile(c.path("pki", name)) // just written
		return b
	}
	config := api.NewConfig()
	config.Clusters["test"] = &api.Cluster{Server: "https://" + NodeAddress + ":6443", CertificateAuthorityData: read("ca.crt")}
	config.AuthInfos[user] = &api.AuthInfo{ClientCertificateData: read(user + ".crt"), ClientKeyData: read(user + ".key")}
	config.Contexts["test"] = &api.Context{Cluster: "test", AuthInfo: user}
	config.CurrentContext = "test"
	return clientcmd.WriteToFile(*config, c.path(user+".kubeconfig"))
}

// write makes a key and a certificate for it and writes both. The first is the
// authority's own.
func (a *authority) write(name string, cert *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if a.key == nil {
		a.cert, a.key = cert, key
	}
	if cert.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64)); err != nil {
		return err
	}
	cert.NotBefore, cert.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(365*24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	if cert == a.cert {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			return err
		}
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	for suffix, block := range map[string]*pem.Block{
		".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "EC PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(a.dir+"/"+name+suffix, pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}
