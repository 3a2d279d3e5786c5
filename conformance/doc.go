// Package conformance checks any Open Service Broker from outside, by its HTTP
// interface alone, against the specification (OSB), versions 2.13 to 2.17.
//
// Run calls a broker as a platform would, well and badly, and gives a Report
// with one Result for each Rule. A Rule is one sentence of the specification; a
// MUST that does not hold fails, a SHOULD warns. Rules about what the broker's
// catalog does not offer are skipped, with the reason. All that Run made in the
// broker it deletes again, also after failures and when its context ends.
//
// Nothing of the broker is trusted: bodies, waits and repetitions are bounded,
// and neither logins nor credentials of bindings are in a Report.
//
// The package knows nothing of this project, and no broker in particular. Runs
// may go on concurrently; each uses ids of its own, which begin with IDPrefix.
package conformance
