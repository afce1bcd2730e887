/* Rotary phases of queries and keys, and their length (worldmodel/attention/rotary.py). */

#pragma once

#include "vector.h"

#define SMALLEST 1e-12f /* added to squared lengths, as by worldmodel.attention.kernel.unit */

/* Calls a function that knows the width of a head where it is inlined. */
#define KNOWING_WIDTH(function, d, ...)                                                                      \
    switch (d) {                                                                                             \
    case 8: function(8, __VA_ARGS__); break;                                                                 \
    case 16: function(16, __VA_ARGS__); break;                                                               \
    case 32: function(32, __VA_ARGS__); break;                                                               \
    case 64: function(64, __VA_ARGS__); break;                                                               \
    default: function(d, __VA_ARGS__);                                                                       \
    }

/* x (d) turned by the phases (d) of its position. Returns its squared length. */
INLINE float turn(int64_t d, float *x, const float *cosine, const float *sine) {
    int64_t half = d / 2;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] + b * sine[i];
        x[i + half] = b * cosine[i + half] + a * sine[i + half];
        sum += x[i] * x[i] + x[i + half] * x[i + half];
    }
    return sum;
}

/* The gradient g (d) of what `turn` made becomes that of what it was given. */
INLINE void turn_back(int64_t d, float *g, const float *cosine, const float *sine) {
    int64_t half = d / 2;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float a = g[i], b = g[i + half];
        g[i] = a * cosine[i] + b * sine[i + half];
        g[i + half] = b * cosine[i + half] + a * sine[i];
    }
}
