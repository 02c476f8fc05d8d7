/*
 * The plain kernel: one nonce at a time, SHA-256 as the standard writes it
 * (FIPS 180-4, 6.2.2).
 *
 * It checks what the others do not reject, so it is written to be read, and shares no
 * optimization with them: a nonce's text is made by division, every word of every
 * schedule is computed.
 */
#include "plain.h"

/* Steps 2 to 4: state becomes its successor. */
static void
compress(uint32_t state[8], const uint32_t kw[64])
{
	uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
	uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
	uint32_t t1, t2;
	int t;

	for (t = 0; t < 64; t++) {
		t1 = h + big_sigma1(e) + choose(e, f, g) + kw[t];
		t2 = big_sigma0(a) + majority(a, b, c);
		h = g;
		g = f;
		f = e;
		e = d + t1;
		d = c;
		c = b;
		b = a;
		a = t1 + t2;
	}
	state[0] += a;
	state[1] += b;
	state[2] += c;
	state[3] += d;
	state[4] += e;
	state[5] += f;
	state[6] += g;
	state[7] += h;
}

/* Store the 64 hex digits of a hash as sixteen big-endian words. */
static void
hex(uint32_t text[16], const uint32_t hash[8])
{
	uint32_t digit;
	int i;

	memset(text, 0, 16 * sizeof(text[0]));
	for (i = 0; i < 64; i++) {
		digit = hash[i / 8] >> (28 - 4 * (i % 8)) & 15;
		digit += digit < 10 ? '0' : 'a' - 10;
		text[i / 4] = text[i / 4] << 8 | digit;
	}
}

void
nonce_hash(uint32_t hash[8], const struct stretch * stretch, uint64_t nonce)
{
	uint32_t text[16], kw[64], first[8];
	unsigned part;

	memcpy(text, stretch->text, sizeof(text));
	nonce_text(text, stretch, nonce);
	schedule(kw, text);
	memcpy(first, INITIAL, sizeof(first));
	compress(first, kw);
	for (part = 0; part < stretch->parts; part++)
		compress(first, stretch->part_kw[part]);

	hex(text, first);
	schedule(kw, text);
	memcpy(hash, INITIAL, sizeof(first));
	compress(hash, kw);
	compress(hash, PADDING_KW);
}

uint64_t
reject_scalar(const struct stretch * stretch)
{
	uint32_t hash[8];
	uint64_t i;

	for (i = 0; i < stretch->count && !*stretch->stop; i++) {
		nonce_hash(hash, stretch, stretch->first + i * stretch->step);
		if ((hash[0] & stretch->mask) == 0)
			break;
	}
	return (i);
}
