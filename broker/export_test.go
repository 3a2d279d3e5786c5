package broker

import "context"

// Forget is what the worker does now and then.
func (b *Broker) Forget(ctx context.Context) error { return b.forget(ctx) }
