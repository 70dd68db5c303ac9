// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT
/*
 * A hole of four pages takes all pinned pages of a large folio out of the file: a write to the pages beside it is lost.
 *
 *     cc -static -O2 -Wall -o repro repro.c -pthread && ./repro /mnt       (ext4, xfs, btrfs; f2fs and tmpfs are controls)
 *
 * As root, or with vm.unprivileged_userfaultfd=1. Exit code: 1 it is lost, 0 it is there, 2 it could not be tried.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/falloc.h>
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

#define PAGES 16
#define LENGTH (PAGES * 4096ul)

static char *map, *source;

/* Pins the pages of the file, then copies; its source has no page yet. */
static void *writer(void *unused)
{
	struct iovec from = { source, LENGTH }, to = { map, LENGTH };

	if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) != (ssize_t)LENGTH)
		err(2, "process_vm_writev");
	return unused;
}

/* One character for each page of the file, as read(2) shows it. */
static void look(int fd, char *pages)
{
	for (int page = 0; page < PAGES; page++)
		if (pread(fd, pages + page, 1, page * 4096ul) != 1)
			err(2, "read of the file");
		else if (!pages[page])
			pages[page] = '0';
}

int main(int argc, char **argv)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_copy fill = { .len = LENGTH };
	char *old = malloc(LENGTH), *new = malloc(LENGTH);
	char found[PAGES + 1] = "";
	int a, uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffd_msg asked;
	pthread_t thread;

	if (argc != 2 || chdir(argv[1]))
		errx(2, "usage: repro DIRECTORY");
	memset(old, 'o', LENGTH);
	memset(new, 'n', LENGTH);
	a = open("a", O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (a < 0 || write(a, old, LENGTH) != (ssize_t)LENGTH || fsync(a))
		err(2, "file");
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
	/* Clean pages, and a hole in the middle. */
	if (fsync(a) || fallocate(a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * 4096, 4 * 4096))
		err(2, "hole");
	fill.dst = (unsigned long)source;
	fill.src = (unsigned long)new;
	if (ioctl(uffd, UFFDIO_COPY, &fill))
		err(2, "UFFDIO_COPY");
	pthread_join(thread, NULL);
	if (fsync(a))
		err(2, "fsync");
	look(a, found);
	printf("process_vm_writev wrote %lu bytes of 'n'; the hole is in pages 4 to 7; pages read: %s: %s\n", LENGTH, found,
	       found[0] == 'n' && found[15] == 'n' ? "fine" : "LOST");
	return found[0] != 'n' || found[15] != 'n';
}
