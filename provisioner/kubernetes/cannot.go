package kubernetes

import (
	"fmt"
	"slices"

	"github.com/remuda/remuda/catalog"
)

// Level is the Pod Security Standard that the pods of members keep; "" is Baseline. See
// https://kubernetes.io/docs/concepts/security/pod-security-standards/.
type Level string

// Levels. With Baseline the agent is root without most rights, and servers have users of their own. With
// Restricted agent and servers are one user without any right.
const (
	Baseline   Level = "baseline"
	Restricted Level = "restricted"
)

// Valid says whether it is a level.
func (l Level) Valid() bool { return l == "" || l == Baseline || l == Restricted }

// baseline are the capabilities that the level lets a container have.
var baseline = []string{"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
	"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}

// Cannot says why no pods of the level can be members of the recipe, in a sentence, or "".
func (l Level) Cannot(r catalog.Recipe) string {
	allowed := baseline
	if l == Restricted {
		allowed = nil
	} else {
		l = Baseline
	}
	for _, role := range r.Roles {
		for _, c := range role.Capabilities {
			if !slices.Contains(allowed, c) {
				return fmt.Sprintf("Role %q of recipe %q needs %s, which Pod Security %s does not allow.", role.Name, r.Name, c, l)
			}
		}
		if l == Restricted && role.User == "root" {
			return fmt.Sprintf("Role %q of recipe %q runs as root, which Pod Security restricted does not allow.", role.Name, r.Name)
		}
	}
	return ""
}
