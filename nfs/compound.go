package nfs

import (
	"context"
	"encoding/binary"
)

// place is where an operation works: a current or saved file handle.
type place struct {
	set bool
	x   *export // none in the pseudo root
	n   *node
}

// compound is a request being worked on (RFC 7530, section 15.2).
type compound struct {
	ctx    context.Context
	s      *server
	d      decoder
	e      encoder
	at     place
	saved  place
	extra  int     // bytes of the budgets for answers that it holds
	lender *budget // the one of an export among them
	worker *worker
	from   string // the client's address, without a port
	known  bool   // it has shown a handle that is good, or an export's name
	change bool   // it may have changed something that must not be changed twice
}

// operation is how an operation is carried out.
type operation struct {
	run  func(*compound) status
	need need
}

// need is what an operation needs to be in place.
type need uint8

const (
	needPlace  need = 1 << iota // a current file handle
	needObject                  // one of an object, not of the pseudo root
	needSaved                   // a saved one of the same export
	needWrite                   // an export that may be written to
	keepsBody                   // has something to say when it fails
	unique                      // is not to be carried out twice
)

const here = needPlace | needObject

var operations = map[uint32]operation{
	opAccess:             {(*compound).access, needPlace},
	opClose:              {(*compound).close, here},
	opCommit:             {(*compound).commit, here},
	opCreate:             {(*compound).create, here | needWrite | unique},
	opDelegpurge:         {unsupported, 0},
	opDelegreturn:        {unsupported, needPlace},
	opGetattr:            {(*compound).getattr, needPlace},
	opGetfh:              {(*compound).getfh, needPlace},
	opLink:               {(*compound).link, here | needSaved | needWrite | unique},
	opLock:               {(*compound).lock, here | keepsBody},
	opLockt:              {(*compound).lockt, here | keepsBody},
	opLocku:              {(*compound).locku, here},
	opLookup:             {(*compound).lookup, needPlace},
	opLookupp:            {(*compound).lookupp, needPlace},
	opNverify:            {(*compound).nverify, needPlace},
	opOpen:               {(*compound).open, here},
	opOpenattr:           {unsupported, needPlace},
	opOpenConfirm:        {(*compound).openConfirm, here},
	opOpenDowngrade:      {(*compound).openDowngrade, here},
	opPutfh:              {(*compound).putfh, 0},
	opPutpubfh:           {(*compound).putrootfh, 0},
	opPutrootfh:          {(*compound).putrootfh, 0},
	opRead:               {(*compound).read, here},
	opReaddir:            {(*compound).readdir, needPlace},
	opReadlink:           {(*compound).readlink, here},
	opRemove:             {(*compound).remove, here | needWrite | unique},
	opRename:             {(*compound).rename, here | needSaved | needWrite | unique},
	opRenew:              {(*compound).renew, 0},
	opRestorefh:          {(*compound).restorefh, 0},
	opSavefh:             {(*compound).savefh, needPlace},
	opSecinfo:            {(*compound).secinfo, needPlace},
	opSetattr:            {(*compound).setattr, here | needWrite | keepsBody | unique},
	opSetclientid:        {(*compound).setclientid, keepsBody},
	opSetclientidConfirm: {(*compound).setclientidConfirm, 0},
	opVerify:             {(*compound).verify, needPlace},
	opWrite:              {(*compound).write, here | needWrite},
	opReleaseLockowner:   {(*compound).releaseLockowner, 0},
}

func unsupported(*compound) status { return errNotsupp }

// run carries out a compound whose arguments begin at c.d and appends its answer. It
// returns false if the arguments cannot be read.
func (c *compound) run() bool {
	tag := c.d.opaque(maxTag)
	minor, count := c.d.u32(), c.d.u32()
	if c.d.bad {
		return false
	}
	head := len(c.e.b)
	c.e.u32(0)
	c.e.opaque(tag)
	results := len(c.e.b)
	c.e.u32(0)
	finish := func(st status, n uint32) bool {
		c.e.put(head, uint32(st))
		c.e.put(results, n)
		return true
	}
	switch {
	case minor != 0:
		return finish(errMinorVers, 0)
	case count > maxOps:
		return finish(errResource, 0)
	}
	for n := range count {
		number := c.d.u32()
		if c.d.bad {
			return finish(errBadxdr, n)
		}
		op, exists := operations[number]
		if !exists {
			op, number = operation{run: func(*compound) status { return errOpIllegal }}, opIllegal
		}
		c.e.u32(number)
		at := len(c.e.b)
		c.e.u32(0)
		st := c.do(number, op)
		if st != ok && op.need&keepsBody == 0 {
			c.e.b = c.e.b[:at+4]
		}
		c.e.put(at, uint32(st))
		if st != ok {
			return finish(st, n+1)
		}
	}
	return finish(ok, count)
}

// do carries out one operation, behind the gate of its export.
func (c *compound) do(number uint32, op operation) status {
	if op.need&needPlace != 0 && !c.at.set {
		return c.without(number, errNofilehandle)
	}
	if op.need&needSaved != 0 && !c.saved.set {
		return errNofilehandle
	}
	if st := c.reserve(number); st != ok {
		return st
	}
	if x := c.at.x; x != nil && op.need&needPlace != 0 {
		x.gate.RLock()
		defer x.gate.RUnlock()
		switch {
		case x.dead:
			return c.without(number, errStale)
		case op.need&needWrite != 0 && !x.Write:
			return c.without(number, errRofs)
		}
	} else if op.need&needWrite != 0 {
		return c.without(number, errRofs)
	} else if op.need&needObject != 0 {
		return c.without(number, errAccess)
	}
	if op.need&needSaved != 0 && c.saved.x != c.at.x {
		return errXdev
	}
	c.change = c.change || op.need&unique != 0
	return op.run(c)
}

// without is the answer of an operation that does not get as far as its own.
func (c *compound) without(number uint32, st status) status {
	if number == opSetattr {
		c.e.bitmap(0)
	}
	return st
}

// reserve makes sure that there is memory for a large answer, before a gate is held.
func (c *compound) reserve(number uint32) status {
	var at int
	switch number {
	case opRead:
		at = 24
	case opReaddir:
		at = 20
	default:
		if len(c.e.b) > maxRecord-(8<<10) {
			return errResource
		}
		return ok
	}
	if len(c.d.b) < at+4 {
		return errBadxdr
	}
	n := int(min(binary.BigEndian.Uint32(c.d.b[at:]), maxIO)) + 1<<10
	if len(c.e.b)+n > maxRecord {
		return errResource
	}
	switch {
	case c.at.x == nil:
		return ok // for whom nothing is large
	case c.extra > 0 && c.lender != c.at.x.answers || c.extra > 0 && !c.lender.try(n):
		return errResource
	case c.extra > 0 && !c.s.answers.try(n):
		c.lender.give(n)
		return errResource
	case c.extra == 0 && !c.wait(n):
		return errDelay
	}
	c.extra += n
	return ok
}

// wait gets memory for the first large answer; others work meanwhile.
func (c *compound) wait(n int) bool {
	c.lender = c.at.x.answers
	if c.lender.try(n) {
		if c.s.answers.try(n) {
			return true
		}
		c.lender.give(n)
	}
	c.worker.rest()
	defer c.worker.resume()
	if !c.lender.take(c.ctx, n) {
		return false
	}
	if !c.s.answers.take(c.ctx, n) {
		c.lender.give(n)
		return false
	}
	return true
}

// free gives back what the answer held.
func (c *compound) free() {
	if c.extra > 0 {
		c.lender.give(c.extra)
		c.s.answers.give(c.extra)
	}
}
