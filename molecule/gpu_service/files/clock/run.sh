#!/bin/bash
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
exec python3 -m http.server 7860 --directory /www
