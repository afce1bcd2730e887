/* Steps over all parameters of a model: tensors are many and small, and torch makes a pass for each
 * operation (float32, on a CPU). native/laprop.py has the equations. */

#include "vector.h"

/* Sum of squares, in double precision over blocks: exact enough for tensors of any size. */
static double square_sum(int64_t n, const float *x) {
    double total = 0.0;
    for (int64_t first = 0; first < n; first += 4096) {
        int64_t last = smaller(first + 4096, n);
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = first; i < last; i++) sum += x[i] * x[i];
        total += sum;
    }
    return total;
}

/* One step of LaProp after adaptive clipping (none if agc is 0); all arrays are of `tensors` places. */
void laprop(int32_t threads, int64_t tensors, const int64_t *sizes, float *const *params, const float *const *grads,
            float *const *seconds, float *const *momenta, float agc, float pmin, float beta1, float beta2,
            float correction, float epsilon, float rate) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t k = 0; k < tensors; k++) {
        int64_t n = sizes[k];
        float *p = params[k], *second = seconds[k], *momentum = momenta[k], factor = 1.0f;
        const float *grad = grads[k];
        if (agc > 0.0f) {
            float norm = (float)sqrt(square_sum(n, grad)), size = (float)sqrt(square_sum(n, p));
            float limit = agc * (size > pmin ? size : pmin);
            /* What is no number stays none. */
            if (!(norm <= limit)) factor = limit / norm;
        }
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            float g = grad[i] * factor;
            second[i] = second[i] * beta2 + (1.0f - beta2) * g * g;
            g /= sqrtf(second[i]) * correction + epsilon;
            momentum[i] += (1.0f - beta1) * (g - momentum[i]);
            p[i] -= rate * momentum[i];
        }
    }
}
