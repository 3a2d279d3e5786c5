// Package broker holds the use cases of the Open Service Broker API, one file
// per operation, and knows no HTTP: broker/osbapi puts them on the wire.
//
// A use case validates everything before it changes anything, then changes the
// store in one transaction, and only then touches a container group. What it is
// about to do to a group is in the store before it is done, so that a crash in
// between is finished or undone by Recover. Work on the group of one instance is
// serialised by a lock per instance; a deletion does not wait for that work, it
// interrupts it.
//
// All methods of Broker may be called concurrently. They return *Error, whose
// Message is for the user; the cause behind it is for the log only. Calls go on
// when the caller's context ends, because half a binding helps nobody; they end
// by time limits of their own, within a minute.
package broker
