package agent

import (
	"errors"
	"fmt"
	"net/http"
)

// Sentinels for errors.Is, on both sides of the wire.
var (
	// ErrConflict: not in this phase, or something else is under way.
	ErrConflict = errors.New("not possible in this phase")
	// ErrInvalid: the request makes no sense and never will.
	ErrInvalid = errors.New("invalid request")
)

// Error is an agent's answer that is not a success.
type Error struct {
	Status  int // HTTP status
	Message string
}

func (e *Error) Error() string { return e.Message }

// Is makes the sentinels work.
func (e *Error) Is(target error) bool {
	return target == ErrConflict && e.Status == http.StatusConflict ||
		target == ErrInvalid && e.Status == http.StatusBadRequest
}

func conflict(format string, args ...any) error {
	return &Error{Status: http.StatusConflict, Message: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error {
	return &Error{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

// statusOf is the HTTP status for an error of the agent.
func statusOf(err error) int {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status
	}
	return http.StatusInternalServerError
}
