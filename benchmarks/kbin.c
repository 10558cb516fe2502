/* The yardstick: `multi_bin_only` on one server in plain scalar C, one thread, means only.
 *
 * Poisson arrivals at rate `rate`, service times U(lo, hi), k equal-mass bins, batches of `batch`, served in the order they
 * form; the last, unfilled batches are dropped. No histogram, no per-bin report, no windows: less than what batchcube's
 * kernels report. benchmarks/run.py compiles it (cc -O3 -march=native -shared) and calls the two functions:
 *
 *   kbin_drawn  draws its random numbers inside the loop, as a hand-written program would;
 *   kbin_trace  reads arrivals, service times (seconds) and bins from arrays, so that its means can be compared exactly.
 *
 * Random numbers: wyrand (W. Yi), whose state advances by one addition, so that consecutive draws overlap in the pipeline;
 * exponentials by a 256-layer ziggurat (Marsaglia and Tsang 2000).
 */
#include <math.h>
#include <stdint.h>

#define MOST_BINS 64
#define LAYERS 256

/* One bin fits half a cache line: the three numbers of an arrival are loaded and stored together. */
struct bin {
    double longest, arrivals, missing, unused;
};

struct means {
    double throughput, latency;
};

static double edge[LAYERS + 1], density[LAYERS + 1];

static const double TAIL = 7.69711747013104972, AREA = 3.949659822581557e-3;

void kbin_tables(void) {
    edge[0] = AREA / exp(-TAIL);
    edge[1] = TAIL;
    for (int i = 1; i < LAYERS - 1; i++) edge[i + 1] = -log(exp(-edge[i]) + AREA / edge[i]);
    edge[LAYERS] = 0.0;
    for (int i = 0; i <= LAYERS; i++) density[i] = exp(-edge[i]);
}

static inline uint64_t next(uint64_t *state) {
    *state += 0xa0761d6478bd642fULL;
    const __uint128_t product = (__uint128_t)*state * (*state ^ 0xe7037ed1a0b428dbULL);
    return (uint64_t)(product >> 64) ^ (uint64_t)product;
}

static inline double unit(uint64_t bits) { return (double)(int64_t)(bits >> 11) * 0x1p-53; }

/* The hundredth part of the draws that leaves its layer's rectangle. */
static __attribute__((noinline, cold)) double exponential_rest(uint64_t *state, uint64_t layer, double x) {
    for (;;) {
        if (layer == 0) return TAIL - log1p(-unit(next(state)));
        if (density[layer] + (density[layer + 1] - density[layer]) * unit(next(state)) < exp(-x)) return x;
        const uint64_t bits = next(state);
        layer = bits % LAYERS;
        x = unit(bits) * edge[layer];
        if (x < edge[layer + 1]) return x;
    }
}

struct means kbin_drawn(int64_t requests, int k, int batch, double rate, double lo, double hi, uint64_t seed) {
    struct bin bins[MOST_BINS];
    for (int j = 0; j < MOST_BINS; j++) bins[j] = (struct bin){0.0, 0.0, batch, 0.0};
    const double gap = 1.0 / rate, width = hi - lo, size = batch, count = k;
    double now = 0.0, idle_from = 0.0, latency = 0.0, served = 0.0;
    uint64_t state = seed * 0x9e3779b97f4a7c15ULL + 1;
    for (int64_t i = 0; i < requests; i++) {
        const uint64_t bits = next(&state), layer = bits % LAYERS;
        double x = unit(bits) * edge[layer];
        if (__builtin_expect(x >= edge[layer + 1], 0)) {
            uint64_t copy = state; /* the address of `state` itself must not escape, or it lives in memory */
            x = exponential_rest(&copy, layer, x);
            state = copy;
        }
        now += x * gap;
        const double u = unit(next(&state)), service = lo + width * u;
        struct bin *own = &bins[(uint64_t)(int64_t)(u * count)];
        const double longest = service > own->longest ? service : own->longest;
        const double arrivals = own->arrivals + now, missing = own->missing - 1.0;
        own->longest = longest;
        own->arrivals = arrivals;
        own->missing = missing;
        if (__builtin_expect(missing == 0.0, 0)) {
            idle_from = (now > idle_from ? now : idle_from) + longest;
            latency += size * idle_from - arrivals;
            served += size;
            *own = (struct bin){0.0, 0.0, size, 0.0};
        }
    }
    return (struct means){served / idle_from, latency / served};
}

struct means kbin_trace(int64_t requests, int batch, const double *arrival, const double *service, const int32_t *bin) {
    struct bin bins[MOST_BINS];
    for (int j = 0; j < MOST_BINS; j++) bins[j] = (struct bin){0.0, 0.0, batch, 0.0};
    const double size = batch;
    double idle_from = 0.0, latency = 0.0, served = 0.0;
    for (int64_t i = 0; i < requests; i++) {
        struct bin *own = &bins[(uint32_t)bin[i]];
        const double now = arrival[i], longest = service[i] > own->longest ? service[i] : own->longest;
        const double arrivals = own->arrivals + now, missing = own->missing - 1.0;
        own->longest = longest;
        own->arrivals = arrivals;
        own->missing = missing;
        if (__builtin_expect(missing == 0.0, 0)) {
            idle_from = (now > idle_from ? now : idle_from) + longest;
            latency += size * idle_from - arrivals;
            served += size;
            *own = (struct bin){0.0, 0.0, size, 0.0};
        }
    }
    return (struct means){served / (idle_from - arrival[0]), latency / served};
}
