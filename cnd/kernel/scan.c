/*
 * The scan: divides the requested nonces into stretches whose nonces are equally long,
 * lets a kernel reject nonces, and checks the others with the plain code.
 *
 * One rule: every result was checked.  A nonce counts as found only after nonce_hash()
 * has computed its whole hash; `tested` counts it and the nonces before it.
 */
#include "plain.h"
#include "scan.h"

#define MAX_KERNELS 8	/* of one architecture */

/* Set byte `i` of big-endian words. */
static void
put(uint32_t * words, size_t i, uint8_t byte)
{
	unsigned shift = 24 - 8 * (unsigned)(i % 4);

	words[i / 4] &= ~((uint32_t)0xff << shift);
	words[i / 4] |= (uint32_t)byte << shift;
}

/* Write `value` in `digits` decimal digits, leading zeros and all. */
static void
put_decimal(uint32_t words[NONCE_WORDS], uint64_t value, unsigned digits)
{
	while (digits-- > 0) {
		put(words, digits, (uint8_t)('0' + value % 10));
		value /= 10;
	}
}

void
nonce_text(uint32_t words[NONCE_WORDS], const struct stretch * stretch,
    uint64_t nonce)
{
	memcpy(words, stretch->text, NONCE_WORDS * sizeof(words[0]));
	put_decimal(words, nonce, stretch->digits);
}

static uint64_t
power_of_10(unsigned exponent)
{
	uint64_t power = 1;

	while (exponent-- > 0)
		power *= 10;
	return (power);
}

/*
 * Both '0' + a and b + 0xc6 as bytes: their sum is 0xf6 + a + b, which carries
 * into the byte before exactly if a + b is 10 or more.  See decimal.h.
 */
void
step_addend(uint32_t addend[NONCE_WORDS], const struct stretch * stretch,
    unsigned times)
{
	uint64_t value = stretch->step, sum = 0;
	unsigned i;

	/*
	 * Modulo the space of that many digits, where that is below 2**64: nonces
	 * past it are not of this stretch, so that any text will do for them.
	 */
	if (stretch->digits < MAX_DIGITS)
		value %= power_of_10(stretch->digits);
	while (times-- > 0) {
		sum += value;
		if (stretch->digits < MAX_DIGITS)
			sum %= power_of_10(stretch->digits);
	}
	memset(addend, 0, NONCE_WORDS * sizeof(addend[0]));
	put_decimal(addend, sum, stretch->digits);
	for (i = 0; i < NONCE_WORDS; i++)
		addend[i] += (0xc6 - '0') * 0x01010101U & stretch->digit_mask[i];
}

static unsigned
digits_of(uint64_t nonce)
{
	unsigned digits = 1;

	while ((nonce /= 10) > 0)
		digits++;
	return (digits);
}

/* How many of start, start + step, ..., at most `count`, are as long as start. */
static uint64_t
equally_long(uint64_t start, uint64_t step, uint64_t count)
{
	unsigned digits = digits_of(start);
	uint64_t last = UINT64_MAX, same;

	if (digits < MAX_DIGITS)
		last = power_of_10(digits) - 1;
	same = (last - start) / step + 1;
	return (same < count ? same : count);
}

/* Pad the message (5.1.1), cut it into parts, and prepare all but the first. */
static void
set_message(struct stretch * stretch, const uint8_t * block, size_t block_len)
{
	size_t length = stretch->digits + block_len, i;
	uint32_t words[MAX_PARTS * 16];
	unsigned part;

	stretch->parts = (unsigned)((length + 9 + 63) / 64 - 1);
	memset(words, 0, (stretch->parts + 1) * 64);
	put_decimal(words, stretch->first, stretch->digits);
	for (i = 0; i < block_len; i++)
		put(words, stretch->digits + i, block[i]);
	put(words, length, 0x80);
	words[stretch->parts * 16 + 15] = (uint32_t)length * 8;

	memcpy(stretch->text, words, sizeof(stretch->text));
	for (part = 0; part < stretch->parts; part++)
		schedule(stretch->part_kw[part], &words[(part + 1) * 16]);
}

/* Compute what is the same for the first part of every nonce. */
static void
set_constants(struct stretch * stretch)
{
	uint32_t w[16];
	unsigned t;

	memset(stretch->digit_mask, 0, sizeof(stretch->digit_mask));
	for (t = 0; t < stretch->digits; t++)
		put(stretch->digit_mask, t, 0xff);
	stretch->varying =
	    stretch->digits <= 4 * FEW_NONCE_WORDS ? FEW_NONCE_WORDS : NONCE_WORDS;

	memcpy(w, stretch->text, sizeof(w));
	for (t = 0; t < 16; t++)
		stretch->text_kw[t] = K[t] + w[t];
	/* A term of W[t] is constant if its word is one of the constant ones. */
#define TERM(i, value) ((i) >= stretch->varying && (i) < 16 ? (value) : 0)
	for (t = 16; t < 32; t++)
		stretch->text_w[t - 16] =
		    TERM(t - 2, small_sigma1(w[(t - 2) % 16])) +
		    TERM(t - 7, w[(t - 7) % 16]) +
		    TERM(t - 15, small_sigma0(w[(t - 15) % 16])) +
		    TERM(t - 16, w[(t - 16) % 16]);
#undef TERM
}

/* Bits of a hash's first `word`s that must be 0 at a difficulty. */
static uint32_t
zero_bits(unsigned difficulty, unsigned word)
{
	if (difficulty >= 8 * (word + 1))
		return (UINT32_MAX);
	if (difficulty <= 8 * word)
		return (0);
	return (~(UINT32_MAX >> 4 * (difficulty - 8 * word)));
}

static int
is_golden(const struct stretch * stretch, uint64_t nonce, unsigned difficulty)
{
	uint32_t hash[8];
	unsigned i;

	nonce_hash(hash, stretch, nonce);
	for (i = 0; i < 8; i++)
		if (hash[i] & zero_bits(difficulty, i))
			return (0);
	return (1);
}

/* Scan one stretch; add to `tested`. */
static int
scan_stretch(const struct kernel * kernel, struct stretch * stretch,
    unsigned difficulty, uint64_t * tested, uint64_t * nonce)
{
	uint64_t rejected, next;

	for (;;) {
		if (*stretch->stop)
			return (CND_STOPPED);
		rejected = kernel->reject(stretch);
		*tested += rejected;
		if (rejected == stretch->count)
			return (CND_NONE);

		/* The next one may be golden, or there was a stop before it. */
		next = stretch->first + rejected * stretch->step;
		*tested += 1;
		if (is_golden(stretch, next, difficulty)) {
			*nonce = next;
			return (CND_FOUND);
		}
		stretch->first = next + stretch->step;
		stretch->count -= rejected + 1;
		if (stretch->count == 0)
			return (CND_NONE);
	}
}

int
cnd_scan(unsigned kernel, const uint8_t * block, size_t block_len,
    unsigned difficulty, uint64_t start, uint64_t step, uint64_t count,
    const volatile int * stop, uint64_t * tested, uint64_t * nonce)
{
	static const int never = 0;
	struct stretch stretch;
	uint64_t same;
	int status = CND_NONE;

	*tested = 0;
	if (!cnd_kernel_supported(kernel) || block_len > MAX_BLOCK ||
	    difficulty > 64 || step == 0)
		return (CND_BAD);
	if (count > 0 && count - 1 > (UINT64_MAX - start) / step)
		return (CND_BAD);

	stretch.stop = stop != NULL ? stop : &never;
	stretch.mask = zero_bits(difficulty, 0);
	stretch.step = step;
	while (count > 0 && status == CND_NONE) {
		same = equally_long(start, step, count);
		stretch.first = start;
		stretch.count = same;
		stretch.digits = digits_of(start);
		set_message(&stretch, block, block_len);
		set_constants(&stretch);
		status = scan_stretch(&KERNELS[kernel], &stretch, difficulty,
		    tested, nonce);
		/* Past the last one this may wrap round: it is not used then. */
		start += same * step;
		count -= same;
	}
	return (status);
}

const char *
cnd_kernel_name(unsigned kernel)
{
	unsigned i;

	for (i = 0; i < kernel; i++)
		if (KERNELS[i].name == NULL)
			return (NULL);
	return (KERNELS[kernel].name);
}

int
cnd_kernel_supported(unsigned kernel)
{
	enum { UNKNOWN, NO, YES };
	/*
	 * Asked once, as a virtual machine's CPUID takes as long as a hundred nonces,
	 * and a scan for witnesses is short.  Two threads find the same answer.
	 */
	static unsigned char answers[MAX_KERNELS];

	if (kernel >= MAX_KERNELS || cnd_kernel_name(kernel) == NULL)
		return (0);
	if (answers[kernel] == UNKNOWN)
		answers[kernel] = KERNELS[kernel].supported() ? YES : NO;
	return (answers[kernel] == YES);
}

void
cnd_chain(unsigned additions)
{
	uint64_t sum = 0;
	unsigned i;

	for (i = 0; i < additions; i += 16) {
		UNROLL
		for (int j = 0; j < 16; j++) {
			sum += i;
			/* Hides the sum from the compiler, which would compute it. */
			__asm__ volatile ("" : "+r"(sum));
		}
	}
}
