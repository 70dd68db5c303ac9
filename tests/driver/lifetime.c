// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Owners that die, and threads that use one open file against each other. */
#define _GNU_SOURCE
#include "driver_test.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define NR_THREADS 6
#define NR_ROUNDS 3
#define OPERATIONS_PER_THREAD 1500

/* Pins, lets the device write, and never ends by itself. */
_Noreturn static void own_for_ever(unsigned char *memory, size_t len, unsigned int mode)
{
	int fd = open_device();
	struct longpin_submit program;
	struct longpin_pin region;

	CHECK(pin(fd, memory, len, mode, LONGPIN_ACCESS_WRITE, &region) == 0);
	for (int i = 0; i < 4; i++) {
		program = endless_program(region.region, len, BUSY_CELLS_PER_S);
		CHECK(submit(fd, &program) == 0);
	}
	for (;;)
		pause();
}

void test_killed_owner(void)
{
	size_t len = 256 * PAGE;
	int64_t before = pins_held();
	int fd = open_device();

	for (int i = 0; i < 10; i++) {
		int memfd;
		unsigned char *memory = map_memfd(len, &memfd);
		pid_t owner = fork();

		if (owner == 0)
			own_for_ever(memory, len, 1 + i % 3);
		EVENTUALLY(memory[len - CELL]);
		CHECK(kill(owner, SIGKILL) == 0 && waitpid(owner, NULL, 0) == owner);
		/* The last close of the file is done by the dying task before its parent hears of it. */
		check_balance(fd, before);
		check_quiet(memory, len);
		close(memfd);
	}
}

/* What the threads throw at each other. */
static struct {
	int fd;
	_Atomic uint32_t region;
	_Atomic uint64_t program;
} shared;

static unsigned int next(unsigned int *seed)
{
	*seed = *seed * 1103515245 + 12345;
	return *seed >> 8;
}

static void swap_region(unsigned char *memory, unsigned int *seed)
{
	struct longpin_pin region;
	uint32_t old;

	if (pin(shared.fd, memory, (1 + next(seed) % 64) * PAGE, 1 + next(seed) % 3, next(seed) & 1, &region) != 0)
		return;
	old = atomic_exchange(&shared.region, region.region);
	if (old)
		release(shared.fd, old, next(seed) & 1);
}

static void start_program(unsigned int *seed)
{
	struct longpin_submit program = endless_program(shared.region, PAGE, 1000);

	program.passes = next(seed) % 5;
	if (submit(shared.fd, &program) == 0)
		shared.program = program.program;
}

static void collect_anything(void)
{
	struct pollfd poll_fd = { .fd = shared.fd, .events = POLLIN };
	uint64_t newest = shared.program;
	struct longpin_wait end;

	poll(&poll_fd, 1, 1);
	for (uint64_t handle = newest; handle && handle + 50 > newest; handle--)
		wait_for(shared.fd, handle, 0, &end);
}

static void *misuse(void *argument)
{
	unsigned int seed = (uintptr_t)argument * 7919 + 1;
	unsigned char *memory = map_anonymous(64 * PAGE);
	struct longpin_query state;
	struct longpin_wait end;
	struct longpin_stop stop;

	/* Any errno is right, since the others are at it too; the balance tells at the end. */
	for (int i = 0; i < OPERATIONS_PER_THREAD; i++) {
		switch (next(&seed) % 9) {
		case 0:
		case 1:
			swap_region(memory, &seed);
			break;
		case 2:
			release(shared.fd, shared.region, LONGPIN_RELEASE_CLEAN);
			break;
		case 3:
		case 4:
			start_program(&seed);
			break;
		case 5:
			wait_for(shared.fd, shared.program, next(&seed) % 3, &end);
			break;
		case 6:
			stop.program = shared.program;
			ioctl(shared.fd, LONGPIN_IOC_STOP, &stop);
			break;
		case 7:
			query(shared.fd, shared.region, next(&seed) % 3, &state);
			break;
		default:
			collect_anything();
		}
	}
	return NULL;
}

void test_racing_threads(void)
{
	int64_t before = pins_held();
	pthread_t threads[NR_THREADS];
	int fd;

	for (uintptr_t round = 0; round < NR_ROUNDS; round++) {
		shared.fd = open_device();
		shared.region = 0;
		shared.program = 0;
		for (uintptr_t i = 0; i < NR_THREADS; i++)
			CHECK(pthread_create(&threads[i], NULL, misuse, (void *)(i + round * 10)) == 0);
		for (int i = 0; i < NR_THREADS; i++)
			CHECK(pthread_join(threads[i], NULL) == 0);
		/* With whatever still runs. */
		close(shared.fd);
	}
	fd = open_device();
	check_balance(fd, before);
}

static void send_descriptor(int socket, int fd)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(fd))] = "";
	char byte = 0;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	*header = (struct cmsghdr){
		.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(fd)),
	};
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	CHECK(sendmsg(socket, &message, 0) == 1);
}

static int receive_descriptor(int socket)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
	char byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control),
	};
	int fd;

	CHECK(recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

static void await_byte(int fd)
{
	char byte;

	CHECK(read(fd, &byte, 1) == 1);
}

/* Pins and lets the device write for ever, gives the file away, and lives until it is told to end. */
static void send_file(int socket, unsigned char *memory, size_t len)
{
	int fd = open_device();
	struct longpin_submit program;
	struct longpin_pin region;

	CHECK(pin(fd, memory, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	program = endless_program(region.region, len, BUSY_CELLS_PER_S);
	CHECK(submit(fd, &program) == 0);
	send_descriptor(socket, fd);
	CHECK(write(socket, &region.region, sizeof(region.region)) == sizeof(region.region));
	await_byte(socket);
}

/* What PIN takes is of the caller's memory and at the caller's cost, whose file it ever is. */
_Noreturn static void receive_file(int socket, int ready, size_t len)
{
	int fd = receive_descriptor(socket);
	unsigned char *own = map_anonymous(len);
	struct longpin_pin region;
	struct longpin_query page;
	uint32_t theirs;

	CHECK(read(socket, &theirs, sizeof(theirs)) == sizeof(theirs));
	CHECK(query(fd, theirs, 0, &page) == 0 && page.nr_running == 1 && pinned_kib() == 0);
	CHECK(pin(fd, own, len, LONGPIN_MODE_PIN, LONGPIN_ACCESS_WRITE, &region) == 0);
	CHECK(info(fd).nr_regions == 2 && pinned_kib() == len / 1024);
	dma_fill(fd, region.region, 0, len, 0x42);
	CHECK(all_bytes(own, len, 0x42));
	CHECK(write(ready, "", 1) == 1);
	for (;;)
		pause();
}

/* A file that was passed on lives until its last close, and so do its regions, whoever made them. */
void test_passed_descriptor(void)
{
	size_t len = 64 * PAGE;
	int memfd, between[2], ready[2], status;
	unsigned char *memory = map_memfd(len, &memfd);
	int64_t before = pins_held();
	pid_t sender, receiver;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, between) == 0 && pipe(ready) == 0);
	sender = fork();
	if (sender == 0) {
		send_file(between[0], memory, len);
		_exit(0);
	}
	receiver = fork();
	if (receiver == 0)
		receive_file(between[1], ready[1], len);
	close(ready[1]);
	await_byte(ready[0]);
	CHECK(pinned_kib_of(sender) == len / 1024 && pinned_kib_of(receiver) == len / 1024);

	CHECK(write(between[1], "", 1) == 1);
	CHECK(waitpid(sender, &status, 0) == sender && status == 0);
	CHECK(pins_held() == before + 2 * (int64_t)(len / PAGE));
	memset(memory, 0, len);
	EVENTUALLY(memory[len - CELL]);

	CHECK(kill(receiver, SIGKILL) == 0 && waitpid(receiver, NULL, 0) == receiver);
	CHECK(pins_held() == before);
	check_quiet(memory, len);
	close(memfd);
}

static struct {
	int fd;
	struct longpin_info *info;
	atomic_bool told, released;
} stuck;

static void *tell(void *unused)
{
	(void)unused;
	CHECK(ioctl(stuck.fd, LONGPIN_IOC_INFO, stuck.info) == 0);
	stuck.told = true;
	return NULL;
}

static void *pin_and_release(void *unused)
{
	unsigned char *memory = map_anonymous(PAGE);
	struct longpin_pin region;
	struct longpin_query page;

	(void)unused;
	CHECK(pin(stuck.fd, memory, PAGE, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	CHECK(info(stuck.fd).nr_regions == 1 && query(stuck.fd, region.region, 0, &page) == 0);
	dma_fill(stuck.fd, region.region, 0, PAGE, 0x24);
	CHECK(release(stuck.fd, region.region, LONGPIN_RELEASE_CLEAN) == 0);
	stuck.released = true;
	return NULL;
}

/* A call may wait for ever for a page of its caller, who may be nobody's friend: other calls go on. */
void test_unresolved_fault(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_zeropage zeroes = {};
	int64_t before = pins_held();
	pthread_t teller, other;
	struct uffd_msg fault;
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC);

	CHECK(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0);
	stuck.info = map_anonymous(PAGE);
	range.range = (struct uffdio_range){ .start = (uintptr_t)stuck.info, .len = PAGE };
	CHECK(ioctl(uffd, UFFDIO_REGISTER, &range) == 0);
	stuck.fd = open_device();
	CHECK(pthread_create(&teller, NULL, tell, NULL) == 0);
	CHECK(read(uffd, &fault, sizeof(fault)) == sizeof(fault) && fault.event == UFFD_EVENT_PAGEFAULT);
	CHECK(fault.arg.pagefault.address / PAGE == (uintptr_t)stuck.info / PAGE);

	CHECK(pthread_create(&other, NULL, pin_and_release, NULL) == 0);
	EVENTUALLY(stuck.released);
	CHECK(!stuck.told);
	zeroes.range = range.range;
	CHECK(ioctl(uffd, UFFDIO_ZEROPAGE, &zeroes) == 0);
	CHECK(pthread_join(teller, NULL) == 0 && pthread_join(other, NULL) == 0);
	CHECK(stuck.info->version == LONGPIN_VERSION && stuck.info->nr_regions == 0);
	check_balance(stuck.fd, before);
	close(uffd);
}
