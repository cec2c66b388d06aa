// A program that makes sockets in network namespaces which porthole itself may not enter. Programs in Go cannot
// join a user namespace: setns(2) wants one that has a single thread.
//
// It is started in one of two ways:
// - without privileges, with a user namespace at descriptor 4. It joins that for good, and the kernel decides
//   which network namespaces may be entered from there.
// - as an installed copy with capabilities (AT_SECURE), CAP_SYS_ADMIN and CAP_SYS_PTRACE. Whoever may run it gets
//   sockets in all network namespaces but the host's, and nothing else: none that are raw.
//
// At descriptor 3 is a SOCK_SEQPACKET socket. Each request is a struct request and one descriptor, of a network
// namespace or of a process (a pidfd); each answer is a struct answer, and the descriptors of the sockets if there are
// any: at most as many as were asked for. The program ends when the other end is closed, or says something else.
// Between requests it is in no namespace that anybody else is in, so that it keeps none alive.
//
// It is compiled by scripts/generate, without any library or header.

typedef unsigned long word;

#if defined(__x86_64__)
enum { SYS_close = 3, SYS_socket = 41, SYS_sendmsg = 46, SYS_recvmsg = 47, SYS_prctl = 157, SYS_exit_group = 231,
	SYS_openat = 257, SYS_unshare = 272, SYS_setns = 308, SYS_statx = 332, SYS_close_range = 436 };

static long call(long n, word a, word b, word c, word d, word e) {
	long result;
	register word r10 __asm__("r10") = d;
	register word r8 __asm__("r8") = e;
	__asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return result;
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall run\n");
#elif defined(__aarch64__)
enum { SYS_openat = 56, SYS_close = 57, SYS_exit_group = 94, SYS_unshare = 97, SYS_prctl = 167, SYS_socket = 198,
	SYS_sendmsg = 211, SYS_recvmsg = 212, SYS_setns = 268, SYS_statx = 291, SYS_close_range = 436 };

static long call(long n, word a, word b, word c, word d, word e) {
	register long x8 __asm__("x8") = n;
	register word x0 __asm__("x0") = a;
	register word x1 __asm__("x1") = b;
	register word x2 __asm__("x2") = c;
	register word x3 __asm__("x3") = d;
	register word x4 __asm__("x4") = e;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return (long)x0;
}

__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x0, sp\n\tbl run\n");
#endif

// Of the kernel's headers.
enum { AT_NULL = 0, AT_SECURE = 23, AT_FDCWD = -100, O_CLOEXEC = 02000000, CLONE_NEWUSER = 0x10000000, CLONE_NEWNET = 0x40000000,
	PR_SET_DUMPABLE = 4, PR_SET_NAME = 15, PR_SET_NO_NEW_PRIVS = 38, STATX_INO = 0x100, SOL_SOCKET = 1, SCM_RIGHTS = 1, MSG_CTRUNC = 8, MSG_TRUNC = 0x20,
	MSG_NOSIGNAL = 0x4000, MSG_CMSG_CLOEXEC = 0x40000000, SOCK_NONBLOCK = 04000, SOCK_CLOEXEC = 02000000, EINTR = 4, EPERM = 1 };
enum { AF_INET = 2, AF_INET6 = 10, AF_NETLINK = 16, SOCK_STREAM = 1, SOCK_DGRAM = 2, SOCK_RAW = 3,
	IPPROTO_ICMP = 1, IPPROTO_TCP = 6, IPPROTO_UDP = 17, IPPROTO_ICMPV6 = 58, NETLINK_SOCK_DIAG = 4 };

struct vector { void *base; word size; };
struct message { void *name; unsigned name_size; struct vector *vector; word vectors; void *control; word control_size; int flags; };
enum { MOST = 16 }; // sockets in an answer
struct control { word size; int level, type, descriptors[MOST]; };
enum { CONTROL_SIZE = sizeof(word) + 3 * sizeof(int) }; // of one descriptor: a second one finds no room
struct file { unsigned char before[32]; word inode; unsigned char between[96]; unsigned major, minor; unsigned char after[112]; };

enum { CHANNEL = 3, USER = 4 };
enum step { DONE, JOIN_USER, ENTER, HOST, REFUSED, SOCKET };
struct request { int domain, type, protocol, count; };
struct answer { int step, error; };

static int privileged;
static int home = -1; // the network namespace to go back to
static struct file own, host;

static _Noreturn void end(void) {
	for (;;)
		call(SYS_exit_group, 0, 0, 0, 0, 0);
}

static long look(const char *path, struct file *f) { return call(SYS_statx, AT_FDCWD, (word)path, 0, STATX_INO, (word)f); }

static int same(const struct file *a, const struct file *b) {
	return a->inode == b->inode && a->major == b->major && a->minor == b->minor;
}

// receive waits for a request, and returns the descriptor that came with it.
static int receive(struct request *r) {
	struct control c;
	struct vector v = {r, sizeof *r};
	struct message m = {.vector = &v, .vectors = 1, .control = &c, .control_size = CONTROL_SIZE};
	long size;
	do
		size = call(SYS_recvmsg, CHANNEL, (word)&m, MSG_CMSG_CLOEXEC, 0, 0);
	while (size == -EINTR);
	if (size != sizeof *r || m.flags & (MSG_TRUNC | MSG_CTRUNC) || m.control_size < CONTROL_SIZE || c.size != CONTROL_SIZE
	    || c.level != SOL_SOCKET || c.type != SCM_RIGHTS)
		end();
	return c.descriptors[0];
}

// send sends an answer, with what it carries if that is not 0.
static void send(struct answer a, struct control *c) {
	struct vector v = {&a, sizeof a};
	struct message m = {.vector = &v, .vectors = 1, .control = c, .control_size = c ? c->size : 0};
	if (call(SYS_sendmsg, CHANNEL, (word)&m, MSG_NOSIGNAL, 0, 0) != sizeof a)
		end();
}

// fail answers that there is no socket.
static void fail(enum step step, int error) { send((struct answer){step, error}, 0); }

// allowed says which sockets there are. A raw one tells clients of UDP that nobody listens; it is for those who own
// the namespace anyway.
static int allowed(const struct request *r) {
	if (r->count < 1 || r->count > MOST)
		return 0;
	int inet = r->domain == AF_INET || r->domain == AF_INET6;
	switch (r->type) {
	case SOCK_STREAM:
		return inet && r->protocol == IPPROTO_TCP;
	case SOCK_DGRAM:
		return inet && r->protocol == IPPROTO_UDP;
	case SOCK_RAW:
		if (r->domain == AF_NETLINK)
			return r->protocol == NETLINK_SOCK_DIAG;
		return !privileged && inet && r->protocol == (r->domain == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6);
	}
	return 0;
}

// make makes sockets in the network namespace that the program is in. Where some of them cannot be had, the others do.
static void make(const struct request *r) {
	struct file here;
	if (privileged && (look("/proc/thread-self/ns/net", &here) || same(&here, &own) || same(&here, &host))) {
		fail(HOST, EPERM);
		return;
	}
	struct control c;
	int made = 0;
	long socket = 0;
	for (; made < r->count; made++) {
		socket = call(SYS_socket, r->domain, r->type | SOCK_NONBLOCK | SOCK_CLOEXEC, r->protocol, 0, 0);
		if (socket < 0)
			break;
		c.descriptors[made] = socket;
	}
	if (made == 0) {
		fail(SOCKET, -socket);
		return;
	}
	c.size = CONTROL_SIZE + (made - 1) * sizeof(int);
	c.level = SOL_SOCKET;
	c.type = SCM_RIGHTS;
	send((struct answer){DONE, 0}, &c);
	while (made > 0)
		call(SYS_close, c.descriptors[--made], 0, 0, 0, 0);
}

// leave goes back home. A program that has joined a user namespace may not go back to where it came from, and makes
// itself a home, which is empty.
static void leave(void) {
	if (home >= 0) {
		if (call(SYS_setns, home, CLONE_NEWNET, 0, 0, 0))
			end();
		return;
	}
	if (call(SYS_unshare, CLONE_NEWNET, 0, 0, 0, 0))
		end();
	home = call(SYS_openat, AT_FDCWD, (word)"/proc/thread-self/ns/net", O_CLOEXEC, 0, 0);
	if (home < 0)
		end();
}

// prepare gives up what is not needed, and returns the error of joining the user namespace.
static long prepare(void) {
	// Processes of the user namespace may be root there: none of them may look into this one (ptrace(2)).
	call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	call(SYS_prctl, PR_SET_NAME, (word)"porthole-enter", 0, 0, 0); // it is a number where it is run from memory
	for (int i = 0; i < CHANNEL; i++)
		call(SYS_close, i, 0, 0, 0, 0);
	call(SYS_close, USER + 1, 0, 0, 0, 0); // the program itself, also before Linux 5.9
	call(SYS_close_range, USER + 1, ~0u, 0, 0, 0);
	long failed = 0;
	if (!privileged) {
		failed = call(SYS_setns, USER, CLONE_NEWUSER, 0, 0, 0);
		// Joining leaves that alone for the namespace's owner, as who uses this is. Anybody else who may join, such
		// as root, becomes what fs.suid_dumpable says (commit_creds of Linux' kernel/cred.c).
		call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	}
	call(SYS_close, USER, 0, 0, 0, 0);
	if (!privileged)
		return failed;
	home = call(SYS_openat, AT_FDCWD, (word)"/proc/thread-self/ns/net", O_CLOEXEC, 0, 0);
	if (home < 0 || look("/proc/thread-self/ns/net", &own))
		end();
	// The caller may be in another one itself. Where the first process is kept from it, kthreadd is in the host's.
	if (look("/proc/1/ns/net", &host) && look("/proc/2/ns/net", &host))
		end();
	return 0;
}

// run is given the program's first stack: argc, argv, 0, environment, 0, auxiliary vector (getauxval(3)).
__attribute__((used)) static _Noreturn void run(word *stack) {
	word *at = stack + 1 + stack[0] + 1;
	while (*at++)
		;
	for (; at[0] != AT_NULL; at += 2)
		if (at[0] == AT_SECURE)
			privileged = at[1] != 0;
	long unjoined = prepare();
	for (;;) {
		struct request r;
		int where = receive(&r);
		long failed = unjoined ? 0 : call(SYS_setns, where, CLONE_NEWNET, 0, 0, 0);
		call(SYS_close, where, 0, 0, 0, 0);
		if (unjoined) {
			fail(JOIN_USER, -unjoined);
		} else if (failed) {
			fail(ENTER, -failed);
		} else if (!allowed(&r)) {
			fail(REFUSED, EPERM);
			leave();
		} else {
			make(&r);
			leave();
		}
	}
}
