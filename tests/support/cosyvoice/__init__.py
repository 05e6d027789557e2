# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for upstream's package `cosyvoice` (FunAudioLLM/CosyVoice, ace7c47): no model, all the trouble.

Its code and weights are not to be had here, so the engine is tested against this. Signatures, attributes,
tensor shapes and the order of things are upstream's; so are the faults, each of which somebody has run into
(the numbers are those of upstream's issues):

- an exception in the language model's thread makes a streamed request wait for ever, and gives a plain one
  another, misleading exception;
- a generator closed early leaves its entries in the model's dictionaries, and its thread running;
- `token_hop_len` doubles with every chunk and is never reset (pull request 1849); two streams at once share
  it, and the chunks of one are then as long as those of the other have grown;
- tokens are sampled with the random numbers of the whole process: no two answers are the same, and a seed
  (`utils.common`) is of no use once another request draws in between;
- the minimum length is not enforced: now and then a text gives 0.16 s (1908); the longest is 20 tokens of
  speech for each of text, so an empty text makes none, and that is a RuntimeError about a convolution;
- a cached speaker is handed out, not copied (so in the stored frontend.py): cross-lingual and instruct delete
  from it, and fail the next time; an instruction is ignored with a cached speaker;
- `fp16` with `load_trt` gives NaN (1930); without CUDA both are dropped without a word;
- `speed` with a stream of more than one chunk is an assertion;
- texts are logged on the root logger, at INFO and at WARNING; progress bars are drawn;
- a prompt has to be a path (it is opened three times); rate and length are assertions;
- `<|` anywhere in a text turns normalising and splitting off; punctuation gives nothing; sft and instruct are
  not for this model;
- a path that is not there becomes a download; `vllm/` is taken as complete if it exists; the built plan of
  TensorRT goes into the model's directory.

Left out: texts that are generators, the limits of what lies behind the language model (300 s of noise, 60 s
with TensorRT), growing memory, and what a normaliser would fetch.

What it speaks is a tone, one sample of it as good as another: 25 tokens a second as upstream has it, about 15
letters a second, the pitch made of voice and instruction so that a test can hear them. Words in the text make
it misbehave as a model does now and then; see `cli.model`. Instead of torch there is a class with the handful
of methods that a caller of upstream needs (`tensors.py`): torch would be 200 MB for `.numpy()`.
"""
