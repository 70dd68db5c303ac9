// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Short ways to the driver, to memory and to the kernel's counters. */
#define _GNU_SOURCE
#include "driver_test.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define DRIVER "/sys/bus/virtio/drivers/longpin/"

double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

void *map_anonymous(size_t len)
{
	void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(memory != MAP_FAILED);
	return memory;
}

unsigned char *map_memfd(size_t len, int *memfd)
{
	void *memory;

	*memfd = memfd_create("driver-test", MFD_CLOEXEC);
	CHECK(*memfd >= 0);
	CHECK(ftruncate(*memfd, len) == 0);
	memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, *memfd, 0);
	CHECK(memory != MAP_FAILED);
	return memory;
}

unsigned char *map_scattered(size_t pages)
{
	int memfd;
	unsigned char *memory = map_memfd(pages * PAGE, &memfd);

	memset(memory, 0, pages * PAGE);
	for (size_t i = 0; i < pages; i++) {
		off_t from = i * 5 % pages * PAGE;

		CHECK(mmap(memory + i * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd, from) !=
		      MAP_FAILED);
	}
	close(memfd);
	return memory;
}

bool all_bytes(const void *memory, size_t len, int byte)
{
	const volatile unsigned char *bytes = memory;

	for (size_t i = 0; i < len; i++)
		if (bytes[i] != byte)
			return false;
	return true;
}

int open_device(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	return fd;
}

int pin(int fd, const void *memory, size_t len, unsigned int mode, unsigned int access, struct longpin_pin *out)
{
	*out = (struct longpin_pin){
		.addr = (uintptr_t)memory, .length = len, .mode = mode, .access = access, .run = 7,
	};
	return ioctl(fd, LONGPIN_IOC_PIN, out);
}

int release(int fd, uint32_t region, uint32_t how)
{
	struct longpin_release argument = { .region = region, .how = how };

	return ioctl(fd, LONGPIN_IOC_RELEASE, &argument);
}

int submit(int fd, struct longpin_submit *program)
{
	return ioctl(fd, LONGPIN_IOC_SUBMIT, program);
}

int wait_for(int fd, uint64_t program, uint32_t timeout_ms, struct longpin_wait *end)
{
	*end = (struct longpin_wait){ .program = program, .timeout_ms = timeout_ms };
	return ioctl(fd, LONGPIN_IOC_WAIT, end);
}

int query(int fd, uint32_t region, uint32_t page_index, struct longpin_query *out)
{
	*out = (struct longpin_query){ .region = region, .page_index = page_index };
	return ioctl(fd, LONGPIN_IOC_QUERY, out);
}

struct longpin_info info(int fd)
{
	struct longpin_info answer;

	CHECK(ioctl(fd, LONGPIN_IOC_INFO, &answer) == 0);
	return answer;
}

struct longpin_submit fill_program(uint32_t region, uint64_t offset, uint64_t len, int byte)
{
	return (struct longpin_submit){
		.region = region, .payload = PAYLOAD_FILL, .offset = offset, .length = len,
		.passes = 1, .cell_bytes = CELL, .fill = byte, .generation = 1,
	};
}

struct longpin_submit endless_program(uint32_t region, uint64_t len, uint64_t rate_cells_per_s)
{
	return (struct longpin_submit){
		.region = region, .length = len, .cell_bytes = CELL, .generation = 1,
		.rate_cells_per_s = rate_cells_per_s,
	};
}

void dma_fill(int fd, uint32_t region, uint64_t offset, uint64_t len, int byte)
{
	struct longpin_submit program = fill_program(region, offset, len, byte);
	struct longpin_wait end;

	CHECK(submit(fd, &program) == 0 && program.program);
	CHECK(wait_for(fd, program.program, SOON_MS, &end) == 0);
	CHECK(end.status == STATUS_OK);
	/* It is collected once. */
	CHECK_ERRNO(wait_for(fd, program.program, 0, &end), ENOENT);
}

uint64_t vmstat(const char *name)
{
	unsigned long long value, found = 0;
	char key[64];
	FILE *file;

	/* The counters are batched per CPU. */
	write_file("/proc/sys/vm/stat_refresh", "1");
	file = fopen("/proc/vmstat", "r");
	CHECK(file);
	while (fscanf(file, "%63s %llu", key, &value) == 2)
		if (!strcmp(key, name))
			found = value;
	fclose(file);
	return found;
}

int64_t pins_held(void)
{
	return vmstat("nr_foll_pin_acquired") - vmstat("nr_foll_pin_released");
}

uint64_t pinned_kib_of(pid_t pid)
{
	unsigned long long kib = 0;
	char path[64], line[256];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "r");
	CHECK(file);
	while (fgets(line, sizeof(line), file))
		sscanf(line, "VmPin: %llu", &kib);
	fclose(file);
	return kib;
}

uint64_t pinned_kib(void)
{
	return pinned_kib_of(getpid());
}

void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		fail_at(__FILE__, __LINE__, "write of '%s' to %s: %s", text, path, strerrorname_np(errno));
	close(fd);
}

/* As /sys/bus/virtio/devices has it: the only device of this number, which has another name after it was plugged in anew. */
static const char *virtio_device(void)
{
	struct dirent *entry;
	static char name[sizeof(entry->d_name)];
	DIR *devices = opendir("/sys/bus/virtio/devices");

	CHECK(devices);
	name[0] = '\0';
	while (!name[0] && (entry = readdir(devices))) {
		char path[512], id[16] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/sys/bus/virtio/devices/%s/device", entry->d_name);
		file = fopen(path, "r");
		if (!file)
			continue;
		if (fgets(id, sizeof(id), file) && strtol(id, NULL, 16) == 38)
			snprintf(name, sizeof(name), "%s", entry->d_name);
		fclose(file);
	}
	closedir(devices);
	CHECK(name[0]);
	return name;
}

void unbind_device(void)
{
	write_file(DRIVER "unbind", virtio_device());
}

void bind_device(void)
{
	write_file(DRIVER "bind", virtio_device());
}

uint16_t swap_pci_command(uint16_t command)
{
	char path[512];
	uint16_t before;
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/virtio/devices/%s/../config", virtio_device());
	fd = open(path, O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0);
	CHECK(pread(fd, &before, sizeof(before), PCI_COMMAND) == sizeof(before));
	CHECK(pwrite(fd, &command, sizeof(command), PCI_COMMAND) == sizeof(command));
	close(fd);
	return before;
}

void check_balance(int fd, int64_t before)
{
	struct longpin_info state = info(fd);

	CHECK(state.pages_pinned == 0 && state.nr_regions == 0);
	CHECK(pins_held() == before);
	CHECK(pinned_kib() == 0);
}

void check_quiet(unsigned char *memory, size_t len)
{
	int fd = open_device();
	void *others = map_anonymous(len);
	struct longpin_pin region;

	memset(memory, 0x55, len);
	CHECK(pin(fd, others, len, LONGPIN_MODE_LONGTERM, LONGPIN_ACCESS_WRITE, &region) == 0);
	dma_fill(fd, region.region, 0, len, 0x66);
	CHECK(all_bytes(memory, len, 0x55));
	CHECK(release(fd, region.region, LONGPIN_RELEASE_CLEAN) == 0);
	close(fd);
	munmap(others, len);
}
