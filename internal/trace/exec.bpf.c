//go:build ignore

// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//
// Which program runs what. An exec that succeeds is seen when the kernel is
// through with it (sched_process_exec): the arguments are then in the new
// program's memory, as the kernel copied them, and cannot be missing or have
// been changed. This also sees programs that the kernel itself starts, and
// 32-bit ones, which tracepoints of system calls pass over. An exec that fails
// is seen at the end of its system call, where only what the beginning kept
// says what it was about.
//
// The declarations are the few that are needed of the kernel's interface; the
// numbers of helpers and map types are fixed there for good. Fields of the
// kernel's own structures are found on the machine itself, through its BTF.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define KERNEL __attribute__((preserve_access_index))

// The number of an enumeration or a size is told to the loader as a type.
#define NUMBER(name, value) int (*name)[value]
#define TYPE(name, type) type *name

enum { MAP_HASH = 1, MAP_RINGBUF = 27 };

static void *(*lookup)(void *map, const void *key) = (void *)1;
static long (*update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*delete)(void *map, const void *key) = (void *)3;
static u64 (*nanoseconds)(void) = (void *)5;
static u64 (*process_and_thread)(void) = (void *)14;
static long (*name_of_task)(void *to, u32 size) = (void *)16;
static u64 (*current_task)(void) = (void *)35;
static long (*read_user)(void *to, u32 size, const void *from) = (void *)112;
static long (*read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*read_user_string)(void *to, u32 size, const void *from) = (void *)114;
static long (*read_kernel_string)(void *to, u32 size, const void *from) = (void *)115;
static void *(*reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*submit)(void *record, u64 flags) = (void *)132;
static void (*discard)(void *record, u64 flags) = (void *)133;

struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
} KERNEL;

struct task_struct {
	struct mm_struct *mm;
	struct task_struct *real_parent;
	int tgid;
} KERNEL;

struct linux_binprm {
	const char *filename;
	const char *interp;
} KERNEL;

// What the tracepoints of system calls hand over, on 64-bit kernels.
struct entry {
	u64 common;
	u64 number;
	u64 args[6];
};

struct ending {
	u64 common;
	u64 number;
	s64 ret;
};

enum { AT_FDCWD = -100, ERESTARTSYS = 512, ERESTART_RESTARTBLOCK = 516 };

enum flags {
	TRUNCATED = 1, // there were more arguments, or some that could not be read
	INTERPRETED = 2, // the arguments are an interpreter's, with the file among them
};

// A record is a head, the file's name and the arguments, each of which ends
// with a NUL. decode.go reads it.
struct head {
	u64 time; // CLOCK_MONOTONIC, in ns
	s32 pid;
	s32 ppid;
	s32 ret;
	s32 dirfd; // that the file's name is relative to, or AT_FDCWD
	u32 flags;
	u16 file_at, file_size; // from the start of the record, in bytes
	u16 args_at, args_size;
	char name[16];
	u32 unused;
};

// Most fit into a small record. The second half of args is for the argument
// that crosses the middle: the verifier wants room for the longest at any place.
struct small {
	struct head head;
	char file[128];
	char args[2 * 256];
};

struct large {
	struct head head;
	char file[4096];
	char args[2 * 4096];
};

// Arguments that are read of an exec that failed.
enum { MAX_ARGS = 256 };

struct {
	NUMBER(type, MAP_RINGBUF);
	NUMBER(max_entries, 4 << 20);
} records SEC(".maps");

// call is a system call that has begun.
struct call {
	u64 file;
	u64 argv;
	u64 mm;
	s64 dirfd;
};

// calls are by task and not by its number: one that is not its process' first
// thread gets that one's number when it succeeds.
struct {
	NUMBER(type, MAP_HASH);
	NUMBER(max_entries, 8192);
	TYPE(key, u64);
	TYPE(value, struct call);
} calls SEC(".maps");

// Events that found no room.
u64 lost;

INLINE struct mm_struct *memory(struct task_struct *task)
{
	struct mm_struct *mm = 0;
	read_kernel(&mm, sizeof(mm), &task->mm);
	return mm;
}

INLINE int begin(s64 dirfd, u64 file, u64 argv)
{
	u64 task = current_task();
	struct call call = {
		.file = file, .argv = argv, .dirfd = dirfd, .mm = (u64)memory((void *)task),
	};
	if (update(&calls, &task, &call, 0))
		__sync_fetch_and_add(&lost, 1);
	return 0;
}

INLINE void fill_head(struct head *h, struct task_struct *task, s32 ret)
{
	struct task_struct *parent = 0;

	h->time = nanoseconds();
	h->pid = process_and_thread() >> 32;
	h->ppid = 0;
	read_kernel(&parent, sizeof(parent), &task->real_parent);
	read_kernel(&h->ppid, sizeof(h->ppid), &parent->tgid);
	h->ret = ret;
	h->dirfd = AT_FDCWD;
	h->flags = 0;
	h->unused = 0;
	name_of_task(h->name, sizeof(h->name));
}

// take_in notes where file and arguments are, and tells whether all fit in.
INLINE int take_in(struct head *h, long file, u32 file_max, u32 args, u32 args_max)
{
	if (file < 0) {
		h->flags |= TRUNCATED;
		file = 0;
	}
	if (args > args_max) {
		h->flags |= TRUNCATED;
		args = args_max;
	}
	h->file_at = sizeof(*h);
	h->file_size = file;
	h->args_at = sizeof(*h) + file_max;
	h->args_size = args;
	return file < file_max && !(h->flags & TRUNCATED);
}

// fill_success takes the arguments from where the kernel has put them.
INLINE int fill_success(struct head *h, struct task_struct *task, struct linux_binprm *bprm,
			char *file, u32 file_max, char *args, u32 args_max)
{
	struct mm_struct *mm = memory(task);
	const char *filename = 0, *interp = 0;
	unsigned long start = 0, end = 0;

	fill_head(h, task, 0);
	read_kernel(&filename, sizeof(filename), &bprm->filename);
	read_kernel(&interp, sizeof(interp), &bprm->interp);
	read_kernel(&start, sizeof(start), &mm->arg_start);
	read_kernel(&end, sizeof(end), &mm->arg_end);
	if (interp != filename)
		h->flags |= INTERPRETED;
	long n = read_kernel_string(file, file_max, filename);
	u64 size = end - start;
	if (size > args_max)
		size = args_max + 1;
	if (read_user(args, size, (void *)start)) {
		h->flags |= TRUNCATED;
		size = 0;
	}
	return take_in(h, n, file_max, size, args_max);
}

// read_argv copies arguments one behind the other, and returns their length.
INLINE u32 read_argv(struct head *h, const u64 *argv, char *args, u32 args_max)
{
	u32 size = 0;

	for (int i = 0; i < MAX_ARGS; i++) {
		u64 arg = 0;
		if (read_user(&arg, sizeof(arg), argv + i))
			break;
		if (!arg || size > args_max)
			return size;
		long n = read_user_string(args + size, args_max, (void *)arg);
		if (n < 0)
			break;
		size += n;
		if (n == args_max)
			break; // its end may be missing
	}
	h->flags |= TRUNCATED;
	return size;
}

INLINE int fill_failure(struct head *h, struct task_struct *task, struct call *call, s32 ret,
			char *file, u32 file_max, char *args, u32 args_max)
{
	fill_head(h, task, ret);
	h->dirfd = call->dirfd;
	// It may fail as late as when the old program's memory is gone.
	if ((u64)memory(task) != call->mm)
		return take_in(h, -1, file_max, 0, args_max);
	long n = read_user_string(file, file_max, (void *)call->file);
	u32 size = read_argv(h, (void *)call->argv, args, args_max);
	return take_in(h, n, file_max, size, args_max);
}

// SMALL_OR_LARGE submits a record that `fill` has filled: a small one where all
// fits in, or else a large one.
#define ROOM(r) (r)->file, sizeof((r)->file), (r)->args, sizeof((r)->args) / 2
#define SMALL_OR_LARGE(fill, ...)                                         \
	do {                                                              \
		struct small *s = reserve(&records, sizeof(*s), 0);       \
		if (s && fill(&s->head, __VA_ARGS__, ROOM(s))) {          \
			submit(s, 0);                                     \
			break;                                            \
		}                                                         \
		if (s)                                                    \
			discard(s, 0);                                    \
		struct large *l = reserve(&records, sizeof(*l), 0);       \
		if (!l) {                                                 \
			__sync_fetch_and_add(&lost, 1);                   \
			break;                                            \
		}                                                         \
		fill(&l->head, __VA_ARGS__, ROOM(l));                     \
		submit(l, 0);                                             \
	} while (0)

SEC("tracepoint/syscalls/sys_enter_execve")
int begin_execve(struct entry *e)
{
	return begin(AT_FDCWD, e->args[0], e->args[1]);
}

SEC("tracepoint/syscalls/sys_enter_execveat")
int begin_execveat(struct entry *e)
{
	return begin((s32)e->args[0], e->args[1], e->args[2]);
}

// For both of execve and execveat.
SEC("tracepoint/syscalls/sys_exit_execve")
int end_exec(struct ending *e)
{
	u64 task = current_task();
	s32 ret = e->ret;
	struct call *found = lookup(&calls, &task);
	if (!found)
		return 0;
	struct call call = *found;
	delete(&calls, &task);
	if (ret >= 0)
		return 0; // exec_done has it
	if (-ret >= ERESTARTSYS && -ret <= ERESTART_RESTARTBLOCK)
		return 0; // a signal: it is called again, unless its thread dies
	SMALL_OR_LARGE(fill_failure, (void *)task, &call, ret);
	return 0;
}

SEC("raw_tracepoint/sched_process_exec")
int exec_done(u64 *args)
{
	u64 task = args[0];
	// A 64-bit caller of a 32-bit program has no end of its call.
	delete(&calls, &task);
	SMALL_OR_LARGE(fill_success, (void *)task, (void *)args[2]);
	return 0;
}

char terms[] SEC("license") = "Dual MIT/GPL";
