// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT
/*
 * btrfs: an unmount throws away what process_vm_writev(2) has written, with no error and no line in the log.
 *
 *     cc -static -O2 -Wall -o repro repro.c -pthread && ./repro /dev/vda /mnt btrfs        (any other is a control)
 *
 * As root; mounts and unmounts. A race: 20 tries. Exit code: 1 lost, 0 not, 2 it could not be tried.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define LENGTH (16 * 4096ul)

static char *map, *source;

/* Pins the pages of the file, then copies; its source has no page yet. At its end the pages are set dirty. */
static void *writer(void *unused)
{
	struct iovec from = { source, LENGTH }, to = { map, LENGTH };

	if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) != (ssize_t)LENGTH)
		err(2, "process_vm_writev");
	return unused;
}

/* A file of 'o', cleaned while it is pinned, then written with 'n'. */
static void write_late(const char *path, char *old, char *new)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_copy fill = { .src = (unsigned long)new, .len = LENGTH };
	int a, uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffd_msg asked;
	pthread_t thread;

	a = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (a < 0 || write(a, old, LENGTH) != (ssize_t)LENGTH || fsync(a))
		err(2, "file");
	map = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
	source = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	range.range = (struct uffdio_range){ (unsigned long)source, LENGTH };
	if (map == MAP_FAILED || source == MAP_FAILED || ioctl(uffd, UFFDIO_API, &api) ||
	    ioctl(uffd, UFFDIO_REGISTER, &range))
		err(2, "userfaultfd");
	pthread_create(&thread, NULL, writer, NULL);
	if (read(uffd, &asked, sizeof(asked)) != sizeof(asked) || fsync(a))
		err(2, "userfaultfd or fsync");
	fill.dst = (unsigned long)source;
	if (ioctl(uffd, UFFDIO_COPY, &fill))
		err(2, "UFFDIO_COPY");
	pthread_join(thread, NULL);
	if (munmap(map, LENGTH) || munmap(source, LENGTH) || close(a) || close(uffd))
		err(2, "munmap or close");
}

int main(int argc, char **argv)
{
	char *old = malloc(LENGTH), *new = malloc(LENGTH), path[256], found;
	int fd, try, lost = 0;

	if (argc != 4)
		errx(2, "usage: repro DEVICE DIRECTORY FILESYSTEM");
	memset(old, 'o', LENGTH);
	memset(new, 'n', LENGTH);
	for (try = 1; try <= 20 && !lost; try++) {
		snprintf(path, sizeof(path), "%s/file%d", argv[2], try);
		write_late(path, old, new);
		if (umount(argv[2]) || mount(argv[1], argv[2], argv[3], 0, NULL))
			err(2, "umount and mount");
		fd = open(path, O_RDONLY);
		if (fd < 0 || pread(fd, &found, 1, 0) != 1 || close(fd))
			err(2, "read");
		lost = found != 'n';
	}
	printf("umount: 0; after %d of them the file has '%c' where 'n' was written: %s\n", try - 1, found,
	       lost ? "LOST" : "fine");
	return lost;
}
