package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/remuda/remuda/store"
)

// Code says what kind of refusal or failure an Error is. osbapi has the one
// table from Code to HTTP status.
type Code string

const (
	// Invalid: the request is malformed, incomplete or not in the catalog.
	Invalid Code = "invalid"
	// NotFound: there is no such resource, or it cannot be shown yet.
	NotFound Code = "not found"
	// Gone: what should be deleted is not there.
	Gone Code = "gone"
	// Conflict: the id is in use with other attributes.
	Conflict Code = "conflict"
	// AsyncRequired: no warm group, and the platform did not accept to wait.
	AsyncRequired Code = "async required"
	// RequiresApp: the binding needs an app_guid.
	RequiresApp Code = "requires app"
	// Concurrency: other work on the same resource is going on.
	Concurrency Code = "concurrency"
	// MaintenanceConflict: the maintenance version is not the catalog's.
	MaintenanceConflict Code = "maintenance conflict"
	// Refused: understood and valid, but not possible here or now.
	Refused Code = "refused"
	// Unavailable: something that the broker needs is away; try again.
	Unavailable Code = "unavailable"
	// Internal: it should have worked.
	Internal Code = "internal"
)

// Error is how a use case fails.
type Error struct {
	Code    Code
	Message string // a sentence for the user
	Err     error  // the cause, for the log; nil for refusals
	// Updating says that an update failed: the instance is as usable as before.
	// Final says that the same update would fail again.
	Updating, Final bool
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", e.Message, e.Err)
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// refuse makes an Error without a cause.
func refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// failure makes an Error from a cause that the user must not see. An *Error
// stays as it is.
func failure(err error, message string) error {
	var known *Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, errSeized), errors.Is(err, store.ErrSeized):
		return refuse(Concurrency, "The service instance is being deleted.")
	case errors.Is(err, errStopping):
		return &Error{Code: Unavailable, Message: "The broker is being stopped; try again.", Err: err}
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: Unavailable, Message: message, Err: err}
	}
	return &Error{Code: Internal, Message: message, Err: err}
}
