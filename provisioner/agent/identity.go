package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// config is what a TLS server with this identity asks of its peers.
func (i Identity) config() (*tls.Config, error) {
	certificate, err := tls.X509KeyPair([]byte(i.Certificate), []byte(i.Key))
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM([]byte(i.Authorities)) {
		return nil, errors.New("identity: no certificate of an authority")
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    authorities,
		// A resumed session would outlive the authorities it was begun with.
		SessionTicketsDisabled: true,
		NextProtos:             []string{"http/1.1"},
		VerifyConnection:       mayOrderByName,
	}, nil
}

// mayOrderByName refuses a peer whose certificate, good as it is, does not say that
// it may give orders: by an explicit purpose and by exactly that name.
func mayOrderByName(s tls.ConnectionState) error {
	leaf := s.PeerCertificates[0]
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || !slices.Contains(leaf.DNSNames, OrdersName) {
		return errors.New("the peer may not give orders")
	}
	return nil
}

// SetIdentity replaces the agent's certificates, for new connections. One that is
// not complete changes nothing.
func (a *Agent) SetIdentity(i Identity) error {
	if a.opts.Listen == "" {
		return invalid("set identity: this agent has none")
	}
	config, err := i.config()
	if err != nil {
		return invalid("set %v", err)
	}
	a.identity.Store(config)
	return nil
}

// serverConfig is of the identity at the time of each connection.
func (a *Agent) serverConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return a.identity.Load(), nil },
	}
}
