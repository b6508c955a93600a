/* UCX's calls, reduced to numbers and pointers: the layouts of its structures stay in its own headers.
 *
 * One `lev_ucx` is one context with one worker. Every function is called from the thread that opened it; callbacks come from
 * within `lev_ucx_progress`, `lev_ucx_send` and `lev_ucx_close`. Results that are negative are a `ucs_status_t`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ucp/api/ucp.h>
#include <ucs/debug/debug.h>
#include <ucs/debug/log_def.h>

/* The only active message there is. */
#define LEV_AM_ID 0

_Static_assert(UCS_OK == 0 && UCS_INPROGRESS == 1, "what Rust takes for the end and the middle");
_Static_assert(sizeof(ucs_status_t) <= sizeof(int), "a status travels as an int");

/* What is used of UCX. */
#define FUNCTIONS(X) \
    X(ucp_config_read) \
    X(ucp_config_modify) \
    X(ucp_config_release) \
    X(ucp_init_version) \
    X(ucp_cleanup) \
    X(ucp_worker_create) \
    X(ucp_worker_destroy) \
    X(ucp_worker_set_am_recv_handler) \
    X(ucp_worker_get_address) \
    X(ucp_worker_release_address) \
    X(ucp_worker_get_efd) \
    X(ucp_worker_arm) \
    X(ucp_worker_progress) \
    X(ucp_worker_flush_nbx) \
    X(ucp_ep_create) \
    X(ucp_ep_close_nbx) \
    X(ucp_am_send_nbx) \
    X(ucp_request_check_status) \
    X(ucp_request_free) \
    X(ucs_status_string) \
    X(ucs_debug_disable_signal) \
    X(ucs_log_push_handler)

static struct {
#define X(name) __typeof__(&name) name;
    FUNCTIONS(X)
#undef X
} api;

struct lev_ucx_calls {
    void (*heard)(void *arg, const void *head, size_t head_len, const void *data, size_t len);
    void (*sent)(void *arg, void *frame, int status);
    void (*broken)(void *arg, uint64_t node, int status);
    void *arg;
};

/* A frame on its way. */
struct note {
    struct lev_ucx *owner;
    void *frame;
};

struct lev_ucx_peer {
    struct lev_ucx *owner;
    struct lev_ucx_peer *next;
    ucp_ep_h ep;
    uint64_t node;
    void *closing;
};

struct lev_ucx {
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_address_t *address;
    size_t address_len;
    struct lev_ucx_calls calls;
    struct lev_ucx_peer *peers;
    void *flush;
};

/* What UCX said last on this thread. */
static _Thread_local char last_words[512];

/* UCX writes to standard output, where only data belongs, and says much about peers that are gone. What it says is kept for the
 * error that follows; who sets UCX_LOG_LEVEL reads all of it on standard error. */
static ucs_log_func_rc_t say(const char *file, unsigned line, const char *function, ucs_log_level_t level,
                             const ucs_log_component_config_t *component, const char *message, va_list ap)
{
    char text[512];
    int len;

    (void)function, (void)component;
    len = vsnprintf(text, sizeof(text), message, ap);
    if (len < 0)
        return UCS_LOG_FUNC_RC_STOP;
    if (level <= UCS_LOG_LEVEL_WARN)
        memcpy(last_words, text, sizeof(last_words));
    if (getenv("UCX_LOG_LEVEL"))
        dprintf(STDERR_FILENO, "leviathan: UCX: %s:%u: %s\n", file, line, text);
    return UCS_LOG_FUNC_RC_STOP;
}

/* What UCX said last on this thread; forgets it. */
void lev_ucx_last_words(char *out, size_t len)
{
    snprintf(out, len, "%s", last_words);
    last_words[0] = 0;
}

/* UCX catches the signals of faults for its backtraces. Touching lost memory must end the process by the signal, and other
 * handlers are the process's own: only what is UCX's is given back. */
static void release_signals(void)
{
    static const int caught[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE};

    for (size_t i = 0; i < sizeof(caught) / sizeof(caught[0]); i++) {
        struct sigaction now;
        Dl_info where;

        if (sigaction(caught[i], NULL, &now) == 0 && now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN &&
            dladdr((void *)(uintptr_t)now.sa_handler, &where) != 0 && where.dli_fname != NULL &&
            strstr(where.dli_fname, "libucs") != NULL)
            api.ucs_debug_disable_signal(caught[i]);
    }
}

/* Sets a variable that is read while UCX is loaded. Once in a process, and before that has threads that could mind: none reads
 * variables named UCX_... but UCX. */
static void preset(const char *name, const char *value)
{
    if (!getenv(name))
        setenv(name, value, 0);
}

/* UCX is loaded when it is first wanted, and not linked: its constructors change code of libc (mmap, munmap and so on, to know
 * when mappings go) unless the environment forbids it. That must not happen under threads that serve page faults. */
static const char *load(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int loaded;
    const char *missing = NULL;

    pthread_mutex_lock(&lock);
    if (!loaded) {
        void *ucp;

        preset("UCX_MEM_EVENTS", "n");
        ucp = dlopen("libucp.so.0", RTLD_NOW | RTLD_LOCAL);
        if (!ucp)
            missing = "libucp.so.0";
#define X(name)                                                                                                        \
    if (ucp && !missing && !(api.name = (__typeof__(api.name))dlsym(ucp, #name)))                                      \
        missing = #name;
        FUNCTIONS(X)
#undef X
        if (!missing) {
            api.ucs_log_push_handler(say);
            release_signals();
            loaded = 1;
        }
    }
    pthread_mutex_unlock(&lock);
    return missing;
}

static ucs_status_t hear(void *arg, const void *head, size_t head_len, void *data, size_t len,
                         const ucp_am_recv_param_t *param)
{
    struct lev_ucx *ucx = arg;

    /* We send eagerly only: whatever comes otherwise is not ours, and UCX drops it. */
    if (!(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV))
        ucx->calls.heard(ucx->calls.arg, head, head_len, data, len);
    return UCS_OK;
}

static void sent(void *request, ucs_status_t status, void *user_data)
{
    struct note *note = user_data;

    note->owner->calls.sent(note->owner->calls.arg, note->frame, status);
    free(note);
    api.ucp_request_free(request);
}

static void broken(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    struct lev_ucx_peer *peer = arg;

    (void)ep;
    peer->owner->calls.broken(peer->owner->calls.arg, peer->node, status);
}

/* Unless the user's environment says otherwise. */
static ucs_status_t set(ucp_config_t *config, const char *name, const char *value)
{
    char variable[64];

    snprintf(variable, sizeof(variable), "UCX_%s", name);
    return getenv(variable) ? UCS_OK : api.ucp_config_modify(config, name, value);
}

static ucs_status_t open_context(struct lev_ucx *ucx, const char **what)
{
    ucp_params_t params = {
        .field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME,
        .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
        .name = "leviathan",
    };
    ucp_config_t *config;
    ucs_status_t status;

    *what = "ucp_config_read";
    status = api.ucp_config_read(NULL, NULL, &config);
    if (status != UCS_OK)
        return status;
    /* A peer's machine that is gone is found by probes, by default every 20 s. */
    *what = "ucp_config_modify";
    status = set(config, "KEEPALIVE_INTERVAL", "1s");
    /* Shared memory says only when asked that it can tell of peers that are gone; without that, nobody would use it. */
    if (status == UCS_OK)
        status = set(config, "MM_ERROR_HANDLING", "y");
    /* Connecting to a machine that is gone must not stop the thread for minutes. */
    if (status == UCS_OK)
        status = set(config, "TCP_CONN_NB", "y");
    if (status == UCS_OK) {
        *what = "ucp_init";
        status = api.ucp_init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config, &ucx->context);
    }
    api.ucp_config_release(config);
    return status;
}

static ucs_status_t open_worker(struct lev_ucx *ucx, const char **what)
{
    ucp_worker_params_t params = {
        .field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
        .thread_mode = UCS_THREAD_MODE_SINGLE,
    };
    ucp_am_handler_param_t handler = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                      UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = LEV_AM_ID,
        .flags = UCP_AM_FLAG_WHOLE_MSG,
        .cb = hear,
        .arg = ucx,
    };
    ucs_status_t status;

    *what = "ucp_worker_create";
    status = api.ucp_worker_create(ucx->context, &params, &ucx->worker);
    if (status != UCS_OK)
        return status;
    *what = "ucp_worker_set_am_recv_handler";
    status = api.ucp_worker_set_am_recv_handler(ucx->worker, &handler);
    if (status != UCS_OK)
        return status;
    *what = "ucp_worker_get_address";
    return api.ucp_worker_get_address(ucx->worker, &ucx->address, &ucx->address_len);
}

void lev_ucx_destroy(struct lev_ucx *ucx)
{
    if (ucx->address)
        api.ucp_worker_release_address(ucx->worker, ucx->address);
    if (ucx->worker)
        api.ucp_worker_destroy(ucx->worker);
    if (ucx->context)
        api.ucp_cleanup(ucx->context);
    while (ucx->peers) {
        struct lev_ucx_peer *peer = ucx->peers;

        ucx->peers = peer->next;
        free(peer);
    }
    free(ucx);
}

int lev_ucx_open(const struct lev_ucx_calls *calls, struct lev_ucx **out, const char **what)
{
    struct lev_ucx *ucx = calloc(1, sizeof(*ucx));
    ucs_status_t status;

    *what = "malloc";
    if (!ucx)
        return UCS_ERR_NO_MEMORY;
    *what = load();
    if (*what) {
        free(ucx);
        return UCS_ERR_UNSUPPORTED;
    }
    ucx->calls = *calls;
    status = open_context(ucx, what);
    if (status == UCS_OK)
        status = open_worker(ucx, what);
    if (status != UCS_OK) {
        lev_ucx_destroy(ucx);
        return status;
    }
    *out = ucx;
    return UCS_OK;
}

const void *lev_ucx_address(const struct lev_ucx *ucx, size_t *len)
{
    *len = ucx->address_len;
    return ucx->address;
}

/* The descriptor that is readable when there is something to do after `lev_ucx_arm` said 0; it stays UCX's. */
int lev_ucx_event_fd(struct lev_ucx *ucx, int *fd)
{
    return api.ucp_worker_get_efd(ucx->worker, fd);
}

/* 0: the descriptor tells of what comes next; 1: there is something to do now. */
int lev_ucx_arm(struct lev_ucx *ucx)
{
    ucs_status_t status = api.ucp_worker_arm(ucx->worker);

    return status == UCS_ERR_BUSY ? 1 : status;
}

unsigned lev_ucx_progress(struct lev_ucx *ucx)
{
    return api.ucp_worker_progress(ucx->worker);
}

int lev_ucx_connect(struct lev_ucx *ucx, const void *address, uint64_t node, struct lev_ucx_peer **out)
{
    struct lev_ucx_peer *peer = calloc(1, sizeof(*peer));
    ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER,
        .address = address,
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {.cb = broken, .arg = peer},
    };
    ucs_status_t status;

    if (!peer)
        return UCS_ERR_NO_MEMORY;
    peer->owner = ucx;
    peer->node = node;
    status = api.ucp_ep_create(ucx->worker, &params, &peer->ep);
    if (status != UCS_OK) {
        free(peer);
        return status;
    }
    peer->next = ucx->peers;
    ucx->peers = peer;
    *out = peer;
    return UCS_OK;
}

/* 0: `head` and `data` are free again; 1: they are once `sent` was called with `frame`. */
int lev_ucx_send(struct lev_ucx_peer *peer, const void *head, size_t head_len, const void *data, size_t len,
                 void *frame)
{
    struct note *note = malloc(sizeof(*note));
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS,
        .flags = UCP_AM_SEND_FLAG_EAGER,
        .cb.send = sent,
        .user_data = note,
    };
    ucs_status_ptr_t request;

    if (!note)
        return UCS_ERR_NO_MEMORY;
    note->owner = peer->owner;
    note->frame = frame;
    request = api.ucp_am_send_nbx(peer->ep, LEV_AM_ID, head, head_len, data, len, &param);
    if (UCS_PTR_IS_PTR(request))
        return 1;
    free(note);
    return UCS_PTR_RAW_STATUS(request);
}

/* Whether a request of no callback is over; frees it then. 0: over; 1: not yet. */
static int over(void **request)
{
    ucs_status_t status;

    if (!*request)
        return 0;
    status = api.ucp_request_check_status(*request);
    if (status == UCS_INPROGRESS)
        return 1;
    api.ucp_request_free(*request);
    *request = NULL;
    return status;
}

/* Asks for everything that was sent to leave this machine; 0: it has; 1: see `lev_ucx_flushed`. */
int lev_ucx_flush(struct lev_ucx *ucx)
{
    ucp_request_param_t param = {.op_attr_mask = 0};
    ucs_status_ptr_t request = api.ucp_worker_flush_nbx(ucx->worker, &param);

    if (!UCS_PTR_IS_PTR(request))
        return UCS_PTR_RAW_STATUS(request);
    ucx->flush = request;
    return 1;
}

int lev_ucx_flushed(struct lev_ucx *ucx)
{
    return over(&ucx->flush);
}

/* Starts to give up all endpoints, without asking the peers. */
void lev_ucx_part(struct lev_ucx *ucx)
{
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = UCP_EP_CLOSE_FLAG_FORCE};

    for (struct lev_ucx_peer *peer = ucx->peers; peer; peer = peer->next) {
        ucs_status_ptr_t request = api.ucp_ep_close_nbx(peer->ep, &param);

        if (UCS_PTR_IS_PTR(request))
            peer->closing = request;
    }
}

/* 0: all endpoints and the flush are over, and `lev_ucx_destroy` may follow; 1: not yet. */
int lev_ucx_parted(struct lev_ucx *ucx)
{
    int left = over(&ucx->flush) == 1;

    for (struct lev_ucx_peer *peer = ucx->peers; peer; peer = peer->next)
        left |= over(&peer->closing) == 1;
    return left;
}

const char *lev_ucx_status(int status)
{
    return api.ucs_status_string ? api.ucs_status_string((ucs_status_t)status) : "not loaded";
}
