package kubernetes

import (
	"fmt"
	"slices"

	"github.com/remuda/remuda/catalog"
)

// baseline are the capabilities that the Pod Security Standard "baseline" lets a container have:
// https://kubernetes.io/docs/concepts/security/pod-security-standards/#baseline
var baseline = []string{"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
	"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}

// Cannot says why no pods can be members of the recipe, in a sentence, or "".
func Cannot(r catalog.Recipe) string {
	for _, role := range r.Roles {
		for _, c := range role.Capabilities {
			if !slices.Contains(baseline, c) {
				return fmt.Sprintf("Role %q of recipe %q needs %s, which Pod Security baseline does not allow.", role.Name, r.Name, c)
			}
		}
	}
	return ""
}
