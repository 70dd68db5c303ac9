// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT
/*
 * xfs: a clone changes after it was made, by a write to the file that it was cloned from.
 *
 *     cc -static -O2 -Wall -o repro repro.c -pthread && ./repro /mnt       (xfs with reflink; btrfs is a control)
 *
 * As root, or with vm.unprivileged_userfaultfd=1. Exit code: 1 the clone changed, 0 it did not, 2 it could not be tried.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
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

static char first_byte(int fd, char *buffer)
{
	if (pread(fd, buffer, LENGTH, 0) != (ssize_t)LENGTH)
		err(2, "read of the clone");
	return buffer[0];
}

int main(int argc, char **argv)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_copy fill = { .len = LENGTH };
	char *old = aligned_alloc(4096, LENGTH), *new = aligned_alloc(4096, LENGTH), before, after;
	int a, b, uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffd_msg asked;
	pthread_t thread;

	if (argc != 2 || chdir(argv[1]))
		errx(2, "usage: repro DIRECTORY");
	memset(old, 'o', LENGTH);
	memset(new, 'n', LENGTH);
	a = open("a", O_RDWR | O_CREAT | O_TRUNC, 0600);
	b = open("b", O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0600);
	if (a < 0 || b < 0 || write(a, old, LENGTH) != (ssize_t)LENGTH || fsync(a))
		err(2, "files");
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
	if (fsync(a) || ioctl(b, FICLONE, a) || fsync(b))
		err(2, "clone");
	before = first_byte(b, old);
	fill.dst = (unsigned long)source;
	fill.src = (unsigned long)new;
	if (ioctl(uffd, UFFDIO_COPY, &fill))
		err(2, "UFFDIO_COPY");
	pthread_join(thread, NULL);
	if (fsync(a))
		err(2, "fsync");
	after = first_byte(b, old);
	printf("the clone had '%c' when it was made, and has '%c' now that its source was written: %s\n", before,
	       after, before == after ? "fine" : "CHANGED");
	return before != after;
}
