package agent

import (
	"fmt"
	"os"
)

// FromEnvironment adds to the options what an agent in a pod is told by its environment,
// and takes it out of there: nothing that is started later gets it. Where a process began
// with it, only those can read it who may trace the process; nobody may trace the agent.
func FromEnvironment(o Options) (Options, error) {
	take := func(name string) string {
		value := os.Getenv(name)
		_ = os.Unsetenv(name)
		return value
	}
	places := take(EnvPlaces)
	o.Identity = Identity{Certificate: take(EnvCertificate), Key: take(EnvKey), Authorities: take(EnvAuthorities)}
	if places == "" {
		return o, nil
	}
	if err := decodeBytes([]byte(places), &o.Places); err != nil {
		return o, fmt.Errorf("%s: %w", EnvPlaces, err)
	}
	return o, nil
}
