package backendtest_test

import (
	"testing"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/backendtest"
)

func TestMemory(t *testing.T) {
	backendtest.RunLife(t, func(t *testing.T) backendtest.Subject {
		m := backendtest.NewMemory()
		t.Cleanup(func() {
			if v := m.Violations(); len(v) > 0 {
				t.Error(v)
			}
		})
		return backendtest.Subject{Backend: m, Definition: provisioner.Definition{
			Offering: "db", Plan: "small",
			Recipe: catalog.Recipe{Name: "db",
				Roles:     []catalog.Role{{Name: "replica"}, {Name: "primary"}},
				Leader:    "primary",
				Endpoints: []catalog.Endpoint{{Name: "sql", Port: 3306}, {Name: "passive", Count: 3}},
			},
			Members: map[string]catalog.Size{"replica": {Count: 2}, "primary": {Count: 1}},
		}}
	})
}
