/*
 * A nonce's text in general registers, counted in decimal.
 *
 * Idea: with '0' + a in the bytes of one number and b + 0xc6 in those of another,
 * their sum has 0xf6 + a + b in a byte, which carries into the byte before exactly
 * if a + b is 10 or more; so one addition carries through all digits.  Where
 * it carried, the byte has the digit; elsewhere it has 0xf6 + the digit, which its top
 * bit shows, and 6 is subtracted.  Then 0x30 becomes the upper half of every digit.
 * Bytes after the digits have 0 added and do not change.
 */
#ifndef CND_DECIMAL_H
#define CND_DECIMAL_H

#include "kernel.h"

/* The first words of a message, big-endian: 0 and 1, 2 and 3, 4. */
struct decimal {
	uint64_t high, low;
	uint32_t last;
};

/* What decimal_add() needs: the addend, and 0xff where there are digits. */
struct decimal_step {
	struct decimal addend, digits;
};

static ALWAYS_INLINE struct decimal
decimal_of(const uint32_t words[NONCE_WORDS])
{
	struct decimal decimal = {
		(uint64_t)words[0] << 32 | words[1],
		(uint64_t)words[2] << 32 | words[3],
		words[4]
	};

	return (decimal);
}

/* Correct the digits after the addition: see above. */
static ALWAYS_INLINE uint64_t
tidied(uint64_t sum, uint64_t digits)
{
	uint64_t high = sum & digits & 0x8080808080808080;

	sum -= high >> 5 | high >> 6;
	sum &= ~(digits & 0xf0f0f0f0f0f0f0f0);
	return (sum | (digits & 0x3030303030303030));
}

/* Return the sum; `varying` shows whether the last word is needed. */
static ALWAYS_INLINE struct decimal
decimal_add(struct decimal x, const struct decimal_step * step,
    const int varying)
{
	struct decimal sum = x;
	uint64_t carry = 0;

	if (varying > 4) {
		sum.last = x.last + step->addend.last;
		carry = sum.last < x.last;
		sum.last = (uint32_t)tidied(sum.last, step->digits.last);
	}
	sum.low = x.low + step->addend.low + carry;
	carry = sum.low < x.low;
	sum.high = x.high + step->addend.high + carry;
	sum.low = tidied(sum.low, step->digits.low);
	sum.high = tidied(sum.high, step->digits.high);
	return (sum);
}

#endif /* !CND_DECIMAL_H */
