package kubernetes

import (
	"crypto/tls"
	"net"
	"strconv"
	"sync"

	"github.com/remuda/remuda/provisioner/agent"
)

// Agents keeps the clients of agents in pods. All methods may be called concurrently.
type Agents struct {
	identity func() (agent.Identity, error) // asked for each new connection

	mu      sync.Mutex
	clients map[string]map[string]*agent.Client // by group and address
}

// NewAgents speaks to agents with the identity.
func NewAgents(identity func() (agent.Identity, error)) *Agents {
	return &Agents{identity: identity, clients: map[string]map[string]*agent.Client{}}
}

// Client is for the agent of the group at the address of its pod.
func (a *Agents) Client(group, address string) *agent.Client {
	a.mu.Lock()
	defer a.mu.Unlock()
	of := a.clients[group]
	if of == nil {
		of = map[string]*agent.Client{}
		a.clients[group] = of
	}
	c := of[address]
	if c == nil {
		c = agent.NewClientTLS(net.JoinHostPort(address, strconv.Itoa(agent.Port)), func() (*tls.Config, error) {
			i, err := a.identity()
			if err != nil {
				return nil, err
			}
			return OrdersConfig(i, group)
		})
		of[address] = c
	}
	return c
}

// Forget ends what is kept of a group.
func (a *Agents) Forget(group string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.clients[group] {
		c.CloseIdle()
	}
	delete(a.clients, group)
}
