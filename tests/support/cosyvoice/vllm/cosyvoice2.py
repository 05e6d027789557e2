# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Part of the stand-in: what has to be registered with vLLM before a model is loaded."""

from __future__ import annotations


class CosyVoice2ForCausalLM:
    """Only a name."""
