/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the 32-bit program says to the 64-bit one. */
#ifndef COMPAT_H
#define COMPAT_H

#include "longpin_uapi.h"

#define COMPAT_PROGRAM "/usr/bin/driver-test-32"
/* Needs all 64 bits. */
#define COMPAT_FILE_OFFSET 0x123456789abcd000ULL

struct compat_told {
	struct longpin_pin pin;
	struct longpin_info info;
	struct longpin_query query;
};

#endif
