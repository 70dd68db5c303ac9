// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT
/*
 * btrfs: fsync(2) returns 0, and the bytes of process_vm_writev(2) are not on the device.
 *
 *     cc -static -O2 -Wall -o repro repro.c -pthread
 *     echo 0 > /sys/devices/system/cpu/cpu1/online; ./repro /mnt /dev/vda        (each CPU but one; btrfs)
 *
 * As root. Exit code: 1 they are not there, 0 they are, 2 it could not be tried.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define LENGTH (16 * 4096ul)

static char *map, *source;

/* Pins the pages of the file, then copies; its source has no page yet. */
static void *writer(void *unused)
{
	struct iovec from = { source, LENGTH }, to = { map, LENGTH };

	if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) != (ssize_t)LENGTH)
		err(2, "process_vm_writev");
	return unused;
}

/* Pages of the device that begin as this one does. */
static int count(int fd, const char *page)
{
	static char chunk[1 << 20] __attribute__((aligned(4096)));
	ssize_t n;
	int found = 0;

	for (off_t at = 0; (n = pread(fd, chunk, sizeof(chunk), at)) > 0; at += n)
		for (ssize_t i = 0; i + 4096 <= n; i += 4096)
			found += !memcmp(chunk + i, page, 4096);
	return found;
}

int main(int argc, char **argv)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_copy fill = { .len = LENGTH };
	char *old = malloc(LENGTH), *new = malloc(LENGTH);
	struct sched_param first = { .sched_priority = 50 };
	int a, device, there, uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffd_msg asked;
	pthread_t thread;

	if (argc != 3 || chdir(argv[1]))
		errx(2, "usage: repro DIRECTORY DEVICE");
	memset(old, 'o', LENGTH);
	memset(new, 'n', LENGTH);
	a = open("a", O_RDWR | O_CREAT | O_TRUNC, 0600);
	device = open(argv[2], O_RDONLY | O_DIRECT);
	if (a < 0 || device < 0 || write(a, old, LENGTH) != (ssize_t)LENGTH || fsync(a))
		err(2, "file or device");
	map = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
	source = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	range.range = (struct uffdio_range){ (unsigned long)source, LENGTH };
	if (map == MAP_FAILED || source == MAP_FAILED || ioctl(uffd, UFFDIO_API, &api) ||
	    ioctl(uffd, UFFDIO_REGISTER, &range))
		err(2, "userfaultfd");
	pthread_create(&thread, NULL, writer, NULL);
	/* The copy asks for the first page of its source: all pages of the file are pinned by now. */
	if (read(uffd, &asked, sizeof(asked)) != sizeof(asked) || asked.event != UFFD_EVENT_PAGEFAULT)
		err(2, "userfaultfd: no fault came");
	if (fsync(a))
		err(2, "fsync");
	fill.dst = (unsigned long)source;
	fill.src = (unsigned long)new;
	if (ioctl(uffd, UFFDIO_COPY, &fill))
		err(2, "UFFDIO_COPY");
	pthread_join(thread, NULL);
	/* No worker runs before fsync sleeps or returns, if there is one CPU. */
	if (sched_setscheduler(0, SCHED_FIFO, &first))
		err(2, "sched_setscheduler");
	if (fsync(a))
		err(2, "fsync");
	/* Writeback would come after 30 seconds; the power may fail now. */
	there = count(device, new);
	printf("fsync: 0, and the device has %d of 16 pages: %s\n", there, there ? "fine" : "LOST if the power fails");
	if (!there && count(device, old) < 16)
		errx(2, "nor has it the pages that were there before");
	return !there;
}
