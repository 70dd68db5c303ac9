// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT
/*
 * A pinner for longpin (docs/pinners.md): the pages of a file as a registered buffer of io_uring, by the bare system
 * calls. One of yours would open your device here, and call its ioctls.
 *
 *     cc -static -O2 -o pinner pinner.c
 *     longpin pinner check ./pinner
 *     longpin run --group pinners --pin exec:./pinner
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096ul

static int file, bytes;			/* what we pin, and where we find what we are to write */
static unsigned char *memory;		/* the pinned pages */
static unsigned long length;

static struct {
	int fd, pipe[2];
	unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
} ring;

/* One line for each question; standard output is the socket. */
static void ok(const char *text)
{
	printf(*text ? "ok %s\n" : "ok\n", text);
}

static void refused(const char *call)
{
	printf("errno %d %s\n", errno, call);
}

static int setup(void)
{
	struct io_uring_params p = { 0 };
	unsigned char *sq, *cq;

	ring.fd = syscall(SYS_io_uring_setup, 2, &p);
	if (ring.fd < 0 || pipe(ring.pipe))
		return -1;
	sq = mmap(NULL, p.sq_off.array + p.sq_entries * sizeof(unsigned), PROT_READ | PROT_WRITE,
		  MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQ_RING);
	cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE,
		  MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_CQ_RING);
	ring.sqes = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || ring.sqes == MAP_FAILED)
		return -1;
	ring.sq_tail = (void *)(sq + p.sq_off.tail);
	ring.sq_mask = (void *)(sq + p.sq_off.ring_mask);
	ring.sq_array = (void *)(sq + p.sq_off.array);
	ring.cq_head = (void *)(cq + p.cq_off.head);
	ring.cq_tail = (void *)(cq + p.cq_off.tail);
	ring.cq_mask = (void *)(cq + p.cq_off.ring_mask);
	ring.cqes = (void *)(cq + p.cq_off.cqes);
	return 0;
}

/* READ_FIXED from the pipe: the kernel copies into the pinned pages, the address only says which. */
static int read_fixed(unsigned char *to, unsigned n)
{
	unsigned tail = *ring.sq_tail, head = *ring.cq_head;
	struct io_uring_sqe *sqe = &ring.sqes[tail & *ring.sq_mask];
	int result;

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_READ_FIXED;
	sqe->fd = ring.pipe[0];
	sqe->addr = (unsigned long)to;
	sqe->len = n;
	ring.sq_array[tail & *ring.sq_mask] = tail & *ring.sq_mask;
	__atomic_store_n(ring.sq_tail, tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return -1;
	if (__atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE) == head) {
		errno = EAGAIN;
		return -1;
	}
	result = ring.cqes[head & *ring.cq_mask].res;
	__atomic_store_n(ring.cq_head, head + 1, __ATOMIC_RELEASE);
	if (result == (int)n)
		return 0;
	errno = result < 0 ? -result : EIO;
	return -1;
}

static void pin(unsigned long offset, unsigned long len)
{
	struct iovec buffer;

	if (memory || !len || offset % PAGE || len % PAGE) {
		errno = EINVAL;
		return refused("pin");
	}
	memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, file, offset);
	if (memory == MAP_FAILED) {
		memory = NULL;
		return refused("mmap");
	}
	buffer = (struct iovec){ memory, len };
	if (syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &buffer, 1)) {
		int error = errno;

		munmap(memory, len);
		memory = NULL;
		errno = error;
		return refused("io_uring_register(IORING_REGISTER_BUFFERS)");
	}
	length = len;
	ok("");
}

static void dma(unsigned long offset, unsigned long len, unsigned long at)
{
	unsigned char page[PAGE];

	if (!memory || !len || offset > length || len > length - offset) {
		errno = EINVAL;
		return refused("dma");
	}
	while (len) {
		unsigned long n = len < PAGE ? len : PAGE;

		if (pread(bytes, page, n, at) != (ssize_t)n || write(ring.pipe[1], page, n) != (ssize_t)n) {
			errno = EIO;
			return refused("read of the bytes");
		}
		if (read_fixed(memory + offset, n))
			return refused("io_uring_enter(IORING_OP_READ_FIXED)");
		offset += n, at += n, len -= n;
	}
	ok("");
}

/* The kernel sets no dirty bit (io_release_ubuf()), so whoever asks for one is refused. */
static void release(const char *how)
{
	if (!memory || strcmp(how, "clean")) {
		errno = memory ? EOPNOTSUPP : EINVAL;
		return refused("release dirty: io_uring gives pages back clean");
	}
	if (syscall(SYS_io_uring_register, ring.fd, IORING_UNREGISTER_BUFFERS, NULL, 0))
		return refused("io_uring_register(IORING_UNREGISTER_BUFFERS)");
	munmap(memory, length);
	memory = NULL;
	ok("");
}

int main(int argc, char **argv)
{
	unsigned long offset, len, at;
	char line[128], how[16];

	if (argc != 3) {
		fprintf(stderr, "usage: pinner FILE BYTES   (numbers of descriptors; longpin starts it)\n");
		return 2;
	}
	file = atoi(argv[1]);
	bytes = atoi(argv[2]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (setup()) {
		perror("io_uring");
		return 1;
	}
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "hello 1\n"))
			printf("pinner 1 sample-io_uring 1.0\n");
		else if (sscanf(line, "pin %lu %lu", &offset, &len) == 2)
			pin(offset, len);
		else if (sscanf(line, "dma %lu %lu %lu", &offset, &len, &at) == 3)
			dma(offset, len, at);
		else if (sscanf(line, "release %15s", how) == 1)
			release(how);
		else if (!strcmp(line, "describe\n"))
			ok("a registered buffer: FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE, given back clean");
		else if (!strcmp(line, "quit\n"))
			break;
		else {
			errno = ENOSYS;
			refused("a question that it does not know");
		}
	}
	return 0;
}
