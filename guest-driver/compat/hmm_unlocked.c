// SPDX-License-Identifier: GPL-2.0
/* Since Linux 7.3: a fault that takes mmap_lock and tries again by itself. */
#include <linux/hmm.h>

int longpin_probe(struct hmm_range *range);
int longpin_probe(struct hmm_range *range)
{
	return hmm_range_fault_unlocked_timeout(range, 1);
}
