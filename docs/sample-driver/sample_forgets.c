// SPDX-License-Identifier: GPL-2.0
/*
 * The make with the bug: pages that the device wrote to are given back as they
 * are. If writeback has cleaned them meanwhile, nobody knows that they changed,
 * and what came after the last writeback is lost with the page.
 */
#include "sample_driver.h"

static void sample_unpin(struct page **pages, unsigned long nr)
{
	unpin_user_pages(pages, nr);
}

static const u32 sample_release = LONGPIN_RELEASE_CLEAN;

MODULE_DESCRIPTION("longpin sample driver that forgets the dirty bit");
