package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
	"github.com/remuda/remuda/provisioner/kubernetes/controller"
)

// KubernetesConfig says where groups live when they are pods.
type KubernetesConfig struct {
	Kubeconfig      string           `yaml:"kubeconfig"`       // "" is the pod's own account, or KUBECONFIG
	Namespace       string           `yaml:"namespace"`        // of the groups
	SystemNamespace string           `yaml:"system_namespace"` // of broker and controller
	Image           string           `yaml:"image"`            // of members, as remuda image build makes it
	Broker          string           `yaml:"broker"`           // name of this installation among those that share a namespace
	StorageClass    string           `yaml:"storage_class"`    // of disks; "" is the cluster's default, "none" keeps all data in pods
	Ephemeral       []string         `yaml:"ephemeral"`        // offerings or offering/plan whose data may end with a pod
	Address         string           `yaml:"address"`          // what credentials name: ip or dns
	PodSecurity     kubernetes.Level `yaml:"pod_security"`     // of members: baseline or restricted
	CPULimit        string           `yaml:"cpu_limit"`        // of members: plan or none
	PullPolicy      string           `yaml:"image_pull_policy"`
	PullSecrets     []string         `yaml:"image_pull_secrets"`
}

func defaultKubernetes() KubernetesConfig {
	return KubernetesConfig{Namespace: "remuda-groups", SystemNamespace: "remuda", Broker: "remuda", Address: "ip", PodSecurity: kubernetes.Baseline, CPULimit: "plan",
		PullPolicy: string(corev1.PullIfNotPresent), Ephemeral: []string{}, PullSecrets: []string{}}
}

var cpuLimits = map[string]v1alpha1.CPULimit{"plan": v1alpha1.CPULimitPlan, "none": v1alpha1.CPULimitNone}

var labelValue = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// faults says what is wrong, by key below "kubernetes".
func (k KubernetesConfig) faults(needsImage bool) map[string]string {
	faults := map[string]string{}
	for key, v := range map[string]string{"namespace": k.Namespace, "system_namespace": k.SystemNamespace, "broker": k.Broker} {
		if !labelValue.MatchString(v) {
			faults[key] = fmt.Sprintf("%q is not a name of small letters, digits and hyphens", v)
		}
	}
	if needsImage && strings.TrimSpace(k.Image) == "" {
		faults["image"] = "the image of the members must be named; make it with remuda image build"
	}
	if !slices.Contains([]string{"ip", "dns"}, k.Address) {
		faults["address"] = fmt.Sprintf("%q is neither ip nor dns", k.Address)
	}
	if !k.PodSecurity.Valid() {
		faults["pod_security"] = fmt.Sprintf("%q is neither baseline nor restricted", k.PodSecurity)
	}
	if cpuLimits[k.CPULimit] == "" {
		faults["cpu_limit"] = fmt.Sprintf("%q is neither plan nor none", k.CPULimit)
	}
	if !slices.Contains([]string{string(corev1.PullAlways), string(corev1.PullIfNotPresent), string(corev1.PullNever)}, k.PullPolicy) {
		faults["image_pull_policy"] = fmt.Sprintf("%q is not Always, IfNotPresent or Never", k.PullPolicy)
	}
	return faults
}

// restConfig is how the API server is reached.
func (k KubernetesConfig) restConfig() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if k.Kubeconfig != "" {
		rules = &clientcmd.ClientConfigLoadingRules{ExplicitPath: k.Kubeconfig}
	}
	c, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("how to reach the API server: %w", err)
	}
	c.UserAgent = "remuda/" + version
	c.QPS, c.Burst = 200, 400 // the server's own fairness decides
	return c, nil
}

// logLibraries lets what the client libraries say of themselves go where our lines go.
func logLibraries(log *slog.Logger) {
	l := logr.FromSlogHandler(log.Handler())
	klog.SetLogger(l)
	ctrllog.SetLogger(l)
}

// newKubernetes makes the back end of the broker.
func newKubernetes(c Config, log *slog.Logger) (*kubernetes.Backend, error) {
	rc, err := c.Kubernetes.restConfig()
	if err != nil {
		return nil, err
	}
	logLibraries(log)
	k := c.Kubernetes
	return kubernetes.New(kubernetes.Options{Config: rc, Namespace: k.Namespace, System: k.SystemNamespace, Broker: k.Broker, Ephemeral: k.Ephemeral,
		CPULimit: cpuLimits[k.CPULimit], Logger: log})
}

// newController is the command that makes the pods.
func newController() *cobra.Command {
	var health, metrics string
	elect := true
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Run the Kubernetes controller, which makes the pods of container groups, until SIGTERM",
		Long: `Run the controller of the custom resource ContainerGroup. It needs no broker: groups that exist are
kept, published, and removed when their resource is deleted. Several may run; one of them works.
It reads the section "kubernetes" of the configuration.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, recipes, err := configured(cmd)
			if err != nil {
				return err
			}
			return runController(cmd.Context(), c, recipes, controller.Options{Elect: elect, Health: health, Metrics: metrics,
				Logger: newLogger(c.LogLevel, cmd.ErrOrStderr())})
		},
	}
	cmd.Flags().StringVar(&health, "health", ":8081", "`address` of /healthz and /readyz; empty for none")
	cmd.Flags().StringVar(&metrics, "metrics", "", "`address` of /metrics, without authentication; empty for none")
	cmd.Flags().BoolVar(&elect, "leader-elect", true, "work only while this one is the leader")
	return cmd
}

func runController(ctx context.Context, c Config, recipes []catalog.Recipe, o controller.Options) error {
	for key, fault := range c.Kubernetes.faults(false) {
		return fmt.Errorf("configuration: kubernetes.%s: %s", key, fault)
	}
	rc, err := c.Kubernetes.restConfig()
	if err != nil {
		return err
	}
	logLibraries(o.Logger)
	k := c.Kubernetes
	o.Config, o.Namespace, o.System, o.Recipes = rc, k.Namespace, k.SystemNamespace, recipes
	o.StorageClass, o.DNS, o.PullPolicy, o.PullSecrets = k.StorageClass, k.Address == "dns", corev1.PullPolicy(k.PullPolicy), k.PullSecrets
	o.PodSecurity = k.PodSecurity
	o.EgressDeny = c.egress().Deny
	err = controller.Run(ctx, o)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}
