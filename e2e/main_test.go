//go:build !kube

package e2e

import (
	"os"
	"testing"

	"github.com/remuda/remuda/provisioner/backendtest"
)

func TestMain(m *testing.M) { os.Exit(backendtest.Main(m)) }
