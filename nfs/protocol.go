package nfs

// Numbers of RFC 7531.
const (
	program = 100003
	version = 4

	opAccess             = 3
	opClose              = 4
	opCommit             = 5
	opCreate             = 6
	opDelegpurge         = 7
	opDelegreturn        = 8
	opGetattr            = 9
	opGetfh              = 10
	opLink               = 11
	opLock               = 12
	opLockt              = 13
	opLocku              = 14
	opLookup             = 15
	opLookupp            = 16
	opNverify            = 17
	opOpen               = 18
	opOpenattr           = 19
	opOpenConfirm        = 20
	opOpenDowngrade      = 21
	opPutfh              = 22
	opPutpubfh           = 23
	opPutrootfh          = 24
	opRead               = 25
	opReaddir            = 26
	opReadlink           = 27
	opRemove             = 28
	opRename             = 29
	opRenew              = 30
	opRestorefh          = 31
	opSavefh             = 32
	opSecinfo            = 33
	opSetattr            = 34
	opSetclientid        = 35
	opSetclientidConfirm = 36
	opVerify             = 37
	opWrite              = 38
	opReleaseLockowner   = 39
	opIllegal            = 10044
)

// status is an nfsstat4, what an operation has come to.
type status uint32

const (
	ok               status = 0
	errPerm          status = 1
	errNoent         status = 2
	errIO            status = 5
	errAccess        status = 13
	errExist         status = 17
	errXdev          status = 18
	errNotdir        status = 20
	errIsdir         status = 21
	errInval         status = 22
	errFbig          status = 27
	errNospc         status = 28
	errRofs          status = 30
	errMlink         status = 31
	errNametoolong   status = 63
	errNotempty      status = 66
	errDquot         status = 69
	errStale         status = 70
	errBadhandle     status = 10001
	errBadCookie     status = 10003
	errNotsupp       status = 10004
	errToosmall      status = 10005
	errServerfault   status = 10006
	errBadtype       status = 10007
	errDelay         status = 10008
	errSame          status = 10009
	errDenied        status = 10010
	errExpired       status = 10011
	errLocked        status = 10012
	errShareDenied   status = 10015
	errClidInuse     status = 10017
	errResource      status = 10018
	errNofilehandle  status = 10020
	errMinorVers     status = 10021
	errStaleClientid status = 10022
	errStaleStateid  status = 10023
	errOldStateid    status = 10024
	errBadStateid    status = 10025
	errBadSeqid      status = 10026
	errNotSame       status = 10027
	errSymlink       status = 10029
	errRestorefh     status = 10030
	errAttrnotsupp   status = 10032
	errBadxdr        status = 10036
	errLocksHeld     status = 10037
	errOpenmode      status = 10038
	errBadowner      status = 10039
	errBadname       status = 10041
	errOpIllegal     status = 10044
)

// kind is an nfs_ftype4, what sort of object something is.
type kind uint8

const (
	kindFile   kind = 1
	kindFolder kind = 2
	kindBlock  kind = 3
	kindChar   kind = 4
	kindLink   kind = 5
	kindSocket kind = 6
	kindFifo   kind = 7
)

// Bits of ACCESS.
const (
	accessRead    = 1
	accessLookup  = 2
	accessModify  = 4
	accessExtend  = 8
	accessDelete  = 16
	accessExecute = 32
)

// Values of OPEN.
const (
	shareRead  = 1
	shareWrite = 2
	shareBoth  = 3

	createUnchecked = 0
	createGuarded   = 1
	createExclusive = 2

	claimNull     = 0
	claimPrevious = 1

	resultConfirm   = 2
	resultPosixLock = 4
)

// Types of locks; those that wait are answered at once like the others.
const (
	lockRead   = 1
	lockWrite  = 2
	lockReadW  = 3
	lockWriteW = 4
)

// What everything is bounded by.
const (
	maxIO        = 1 << 20           // bytes in a READ or WRITE
	maxRecord    = maxIO + 64<<10    // bytes of a request, and of an answer
	maxStranger  = 8 << 10           // bytes of a request of a connection that has not shown a handle
	maxFragments = 64                // of a request
	maxOps       = 64                // in a compound
	maxName      = 255               // bytes
	maxTag       = 1024              // bytes
	maxOwner     = 1024              // bytes of a client's, an open's or a lock's name
	maxTarget    = 4095              // bytes of a symbolic link
	maxListing   = 256 << 10         // bytes of an answer to READDIR
	maxFile      = uint64(1)<<63 - 1 // bytes
)
