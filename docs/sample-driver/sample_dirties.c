// SPDX-License-Identifier: GPL-2.0
/* The make that gets it right: every page that the device may have written to is dirty. */
#include "sample_driver.h"

static void sample_unpin(struct page **pages, unsigned long nr)
{
	unpin_user_pages_dirty_lock(pages, nr, true);
}

static const u32 sample_release = LONGPIN_RELEASE_DIRTY;

MODULE_DESCRIPTION("longpin sample driver that sets the dirty bit");
