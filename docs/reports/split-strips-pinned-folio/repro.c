// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT
/*
 * A large folio of which a page is pinned is to be split, which fails, but takes from it what the file system keeps with it.
 * What is then written through the pin is lost (ext4), or the kernel falls over (btrfs).
 *
 *     cc -static -O2 -Wall -o repro repro.c -pthread && ./repro /mnt       (ext4, btrfs; xfs, f2fs and tmpfs are controls)
 *
 * As root, or with vm.unprivileged_userfaultfd=1. Exit code: 1 lost or dead, 0 all is there, 2 it could not be tried.
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

#define LENGTH (16 * 4096ul)
#define HALF (LENGTH / 2)

static char *map, *source;
static volatile int returned;

/* Pins the second half of the file, then copies; its source has no page yet. */
static void *writer(void *unused)
{
	struct iovec from = { source, HALF }, to = { map + HALF, HALF };

	if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) != (ssize_t)HALF)
		err(2, "process_vm_writev");
	returned = 1;
	return unused;
}

int main(int argc, char **argv)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_copy fill = { .len = HALF };
	char *old = malloc(LENGTH), *new = malloc(HALF);
	char found;
	int a, uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffd_msg asked;
	pthread_t thread;

	if (argc != 2 || chdir(argv[1]))
		errx(2, "usage: repro DIRECTORY");
	memset(old, 'o', LENGTH);
	memset(new, 'n', HALF);
	a = open("a", O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (a < 0 || write(a, old, LENGTH) != (ssize_t)LENGTH || fsync(a))
		err(2, "file");
	setvbuf(stdout, NULL, _IONBF, 0);
	map = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
	source = mmap(NULL, HALF, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	range.range = (struct uffdio_range){ (unsigned long)source, HALF };
	if (map == MAP_FAILED || source == MAP_FAILED || ioctl(uffd, UFFDIO_API, &api) ||
	    ioctl(uffd, UFFDIO_REGISTER, &range))
		err(2, "userfaultfd");
	/* All pages are mapped. */
	for (unsigned long at = 0; at < LENGTH; at += 4096)
		map[at] = 'o';
	pthread_create(&thread, NULL, writer, NULL);
	/* The copy asks for the first page of its source: half of the file is pinned by now. */
	if (read(uffd, &asked, sizeof(asked)) != sizeof(asked) || asked.event != UFFD_EVENT_PAGEFAULT)
		err(2, "userfaultfd: no fault came");
	/* Clean pages, with nothing of btrfs under way for them; four of the others are to go. */
	if (fsync(a) || syncfs(a) || madvise(map, LENGTH / 4, MADV_PAGEOUT))
		err(2, "pageout");
	fill.dst = (unsigned long)source;
	fill.src = (unsigned long)new;
	if (ioctl(uffd, UFFDIO_COPY, &fill))
		err(2, "UFFDIO_COPY");
	/* A thread that dies in the kernel is joined as any other. */
	pthread_join(thread, NULL);
	if (!returned) {
		printf("process_vm_writev did not return, its thread is dead: OOPS\n");
		_exit(1);
	}
	if (fsync(a))
		err(2, "fsync");
	/* Out of the page cache, and in again. */
	munmap(map, LENGTH);
	posix_fadvise(a, 0, 0, POSIX_FADV_DONTNEED);
	if (pread(a, &found, 1, LENGTH - 1) != 1)
		err(2, "read of the file");
	printf("process_vm_writev wrote 'n' where 'o' was, fsync returned 0; the file has '%c': %s\n", found,
	       found == 'n' ? "fine" : "LOST");
	return found != 'n';
}
