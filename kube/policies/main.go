// Command policies makes the node of the tests keep to NetworkPolicies, as network plugins do. It is
// sigs.k8s.io/kube-network-policies with a kubeconfig: the kernel asks it about the first packet of each
// connection (netfilter queue 100). It is a module of its own, so that the product depends on nothing of this.
package main

import (
	"context"
	"flag"
	"net/http"
	"os"
	"os/signal"
	"strings"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "who it is to the API server")
	health := flag.String("healthz", "127.0.0.1:9080", "where it says that it is well")
	node := flag.String("node", "node", "name of the node that it is on")
	flag.Parse()
	if err := run(*kubeconfig, *health, *node); err != nil {
		klog.ErrorS(err, "cannot keep to policies")
		os.Exit(1)
	}
}

func run(kubeconfig, health, node string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	watch := informers.NewSharedInformerFactory(client, 0)
	// Without NRI it does not survive an address that it does not know. With it, it looks in vain for its
	// socket, and goes on.
	c, err := networkpolicy.NewController(client, watch.Networking().V1().NetworkPolicies(), watch.Core().V1().Namespaces(),
		watch.Core().V1().Pods(), nil, nil, nil, nil, networkpolicy.Config{NodeName: node})
	if err != nil {
		return err
	}
	watch.Start(ctx.Done())
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		queues, err := os.ReadFile("/proc/net/netfilter/nfnetlink_queue")
		if err != nil || strings.TrimSpace(string(queues)) == "" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	go func() { klog.ErrorS(http.ListenAndServe(health, nil), "cannot say that it is well") }()
	return c.Run(ctx)
}
