# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The attributes every module of this collection declares, with the words used for all of them."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragments C(attributes), C(attributes.info_module), C(attributes.platform)."""

    # Names and meanings only: each module states its own ``support`` (and ``details``).
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)),
      when in diff mode.
  idempotent:
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates
        no change.
      - This assumes that the system controlled or queried by the module has not changed in a relevant way.
"""

    # For modules that only look: full check mode, no diff, nothing ever changed.
    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - This module only reads, so check mode makes no difference to it.
  diff_mode:
    support: N/A
    details:
      - This module does not modify state.
  idempotent:
    support: full
    details:
      - This module does not modify state.
"""

    # Which operating systems the module can act on.
    PLATFORM = r"""
options: {}
attributes:
  platform:
    description: Target operating systems or families that can be operated against.
    support: full
    platforms: posix
"""
