// Package nfs serves one folder over NFS version 4.0 (RFC 7530, with the XDR of
// RFC 7531) and TCP, in user space, as a user without any rights of root.
//
// # Exports
//
// An export is a way to the folder that one login has: a token, which is its name
// below the pseudo root, whether it may write, and a user and a group. All exports
// show the same files. The pseudo root can be passed through and not listed, so
// whoever does not know a token gets nowhere. What a client says of its user is
// ignored: all that comes through an export is done as the export's user and group,
// with no other groups. Owners are plain numbers on the wire.
//
// Exports change through a socket, by Change. When it returns, the change is on the
// disk; of an export that was taken away no handle, open or lock is good any more
// (NFS4ERR_STALE, NFS4ERR_NOENT for the token), and no request through it is at work.
// An answer that had been finished by then may still be on its way to the client. There
// is always room for a change of exports, also on a disk without a free byte or inode.
//
// File handles have a MAC. They say through which export they work, so a handle is
// as good as the export's token, for one object. They survive restarts of the server
// and of the machine, and moves of the folder that keep extended attributes.
//
// # The folder
//
// Objects are ordinary files and folders on the disk, of mode 0600 and 0700 and the
// server's own user. Owner, group, mode, kind and number (the fileid) are in an extended
// attribute, user.remuda; the server checks permissions by them (mode bits, sticky bit,
// set-group-ID of folders; no ACLs). Symbolic links, fifos and sockets are files too, which the
// attribute tells apart, so no link is ever followed and nothing on the disk can block.
// Devices cannot be made. The folder itself begins with mode 0777 and owner 2000:2000.
//
// At the start the server walks through the folder and keeps a table of it in memory, some
// 300 bytes for each object and less for each further name. While it runs nobody else may
// change anything there. What others have put there before gets an attribute: the owner is
// 2000:2000, the mode stays, links, fifos and sockets become files that stand for them.
// Devices, and what lies on other file systems, are not shown. Of copies with the same
// attribute one gets another number.
//
// # What is durable
//
//   - Data of WRITE with DATA_SYNC4 or FILE_SYNC4, when it is answered, and of UNSTABLE4
//     when COMMIT is. The verifier changes with each start of the server.
//   - Names and attributes (CREATE, OPEN, REMOVE, RENAME, LINK, SETATTR) are in order in the
//     file system when they are answered: they survive the death of the server. They survive a
//     loss of power as soon as the file system has written its journal, which a COMMIT of the
//     same file makes it do (ext4, XFS), and time (five seconds for ext4). This is less than
//     RFC 7530 asks for.
//   - A file or folder that was being made when the server died is there and complete, or not
//     at all.
//   - Exports, when Change returns.
//
// # State
//
// Opens and locks are in memory. After a restart clients reclaim them; there is no time of
// grace, so a reclaim is refused if another client was faster. A client that is silent for
// longer than the lease, 90 seconds, loses what it has if somebody else wants it, or after
// half an hour. A file that is removed while it is open can be read and written through its
// open until the server ends. There are no delegations and no callbacks.
//
// Clients of all exports introduce themselves in one space of names, and a client that uses
// another's name from the same address can end the other's opens and locks, as in any server
// that believes AUTH_SYS. It gets no access to files by that. Numbers of clients and of opens are random, and
// who holds a lock is not told to other clients.
//
// # Bounds
//
// Connections, requests at work, their memory, objects, names, clients, opens, owners and locks are
// bounded. One client has half of the opens, owners and locks at most, and one export half of the
// memory for large answers. A connection that has shown neither a handle nor a token ends after
// 30 seconds, or when others need its place, and can send only small requests.
//
// # Operations
//
// All of RFC 7530, section 16, but DELEGPURGE, DELEGRETURN and OPENATTR, and OPEN with claims
// of delegations: these are answered with NFS4ERR_NOTSUPP. Other minor versions are answered with
// NFS4ERR_MINOR_VERS_MISMATCH. LOOKUPP does not leave an export.
package nfs
