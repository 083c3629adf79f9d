// SPDX-License-Identifier: Apache-2.0
/*
 * The launcher: the one file in the CNI bin directory and in PATH. It starts the runtime, a Node executable that
 * brings its own dynamic loader and libraries, and it is static itself, so that both run on any Linux.
 *
 * As a command line tool it becomes the runtime (execve). As a CNI plugin it stays, because a plugin must always
 * answer: it collects what the runtime prints, and where that is no answer (the runtime is not there, was killed,
 * stopped half-way) it prints the error object itself. The runtime dies with the launcher: a container runtime that
 * kills the process it knows must not leave another one at work on the pod.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#define LOADER "ld-linux-x86-64.so.2"
#elif defined(__aarch64__)
#define LOADER "ld-linux-aarch64.so.1"
#else
#error "the runtime's dynamic loader is not known for this architecture"
#endif

#define RUNTIME "remora-runtime"
#define INSTALLED "/opt/remora/runtime"
#define BESIDE "runtime"

/* Remora's code for what went wrong inside it (plugin/errors.ts). */
#define CODE_INTERNAL 199

/* What an error says where the configuration's version is not known: the newest (plugin/cni/version.ts). */
#define CNI_VERSION "1.1.0"

/* A result is the previous result again: some kilobytes. More than this is a runtime gone mad. */
#define OUTPUT_LIMIT (32 << 20)

/* Big enough for two paths and a sentence. */
#define MESSAGE_SIZE (3 * PATH_MAX)

/*
 * What steers Node, the loader or the libraries from outside. Such a variable is meant for other programs of the
 * node, and one that names a missing file would keep the runtime from starting.
 */
static const char *const foreign_prefixes[] = {
	"NODE_", "LD_", "OPENSSL_", "UV_", "MALLOC_", "GLIBC_TUNABLES=", "GCONV_PATH=", "LOCPATH=",
};

struct output {
	char *bytes;
	size_t length;
	size_t capacity;
};

/* What became of a run: how the process ended, and what it had printed. */
struct run {
	int status; /* as of waitpid() */
	struct output output;
	bool too_long;
};

static char runtime_dir[PATH_MAX];
static char loader_path[PATH_MAX + sizeof(LOADER)];
static char runtime_path[PATH_MAX + sizeof(RUNTIME)];

static void use_directory(const char *directory)
{
	snprintf(runtime_dir, sizeof(runtime_dir), "%s", directory);
	snprintf(loader_path, sizeof(loader_path), "%s/" LOADER, directory);
	snprintf(runtime_path, sizeof(runtime_path), "%s/" RUNTIME, directory);
}

/*
 * The runtime beside this file (an installation tree), else the installed one. The file is found by /proc, since
 * argv[0] says nothing of the kind; where there is no /proc, only the installed one is tried.
 */
static void find_runtime(void)
{
	char beside[PATH_MAX];
	char self[PATH_MAX - sizeof("/" BESIDE)];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (length > 0) {
		char *slash;

		self[length] = '\0';
		slash = strrchr(self, '/');
		if (slash) {
			*slash = '\0';
			snprintf(beside, sizeof(beside), "%s/" BESIDE, self);
			use_directory(beside);
			if (!access(runtime_path, F_OK))
				return;
		}
	}
	use_directory(INSTALLED);
}

static bool is_foreign(const char *variable)
{
	for (size_t i = 0; i < sizeof(foreign_prefixes) / sizeof(*foreign_prefixes); i++) {
		if (!strncmp(variable, foreign_prefixes[i], strlen(foreign_prefixes[i])))
			return true;
	}
	return false;
}

/* Takes what is foreign out of the environment, in place: there is no later use of it here. */
static void clean_environment(char **environment)
{
	char **to = environment;

	for (char **from = environment; *from; from++) {
		if (!is_foreign(*from))
			*to++ = *from;
	}
	*to = NULL;
}

/* The loader's command line. Leaves errno, returns NULL when there is no memory. */
static char **runtime_arguments(int argc, char **argv)
{
	char *fixed[] = {
		loader_path,
		"--inhibit-cache",
		"--library-path", runtime_dir,
		"--argv0", argc > 0 ? argv[0] : "remora",
		runtime_path,
	};
	size_t count = sizeof(fixed) / sizeof(*fixed);
	char **arguments = calloc(count + (size_t)argc + 1, sizeof(*arguments));

	if (!arguments)
		return NULL;
	memcpy(arguments, fixed, sizeof(fixed));
	for (int i = 1; i < argc; i++)
		arguments[count++] = argv[i];
	return arguments;
}

/* Writes all of it, also to a pipe that somebody made non-blocking. */
static bool write_all(int fd, const char *bytes, size_t length)
{
	while (length > 0) {
		ssize_t written = write(fd, bytes, length);

		if (written >= 0) {
			bytes += written;
			length -= (size_t)written;
		} else if (errno == EAGAIN) {
			poll(&(struct pollfd){ .fd = fd, .events = POLLOUT }, 1, -1);
		} else if (errno != EINTR) {
			return false;
		}
	}
	return true;
}

/* Prints a string as JSON. What is no ASCII becomes a question mark: it may be half a character, or none at all. */
static void print_json_string(FILE *to, const char *text)
{
	fputc('"', to);
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			fprintf(to, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			fprintf(to, "\\u%04x", c);
		else
			fputc(c < 0x80 ? c : '?', to);
	}
	fputc('"', to);
}

/* Answers in the runtime's place. Returns the exit status. */
__attribute__((format(printf, 1, 2))) static int answer_error(const char *format, ...)
{
	char message[MESSAGE_SIZE];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);

	/* The configuration, with the version to answer in, went to the runtime. */
	fprintf(stdout, "{\"cniVersion\":\"" CNI_VERSION "\",\"code\":%d,\"msg\":", CODE_INTERNAL);
	print_json_string(stdout, message);
	fputs(",\"details\":\"\"}\n", stdout);
	fflush(stdout);
	return EXIT_FAILURE;
}

/*
 * Whether the bytes are one JSON object from the first brace to the last: what a runtime that died while it wrote
 * has not printed. It is no parser: that the inside is right is the runtime's business.
 */
static bool is_json_object(const struct output *output)
{
	const char *bytes = output->bytes;
	size_t length = output->length;
	bool in_string = false;
	long depth = 0;

	while (length > 0 && strchr(" \t\r\n", bytes[length - 1]) && bytes[length - 1])
		length--;
	while (length > 0 && strchr(" \t\r\n", *bytes) && *bytes)
		bytes++, length--;
	if (length == 0 || *bytes != '{')
		return false;

	for (size_t i = 0; i < length; i++) {
		char c = bytes[i];

		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == '{' || c == '[') {
			depth++;
		} else if (c == '}' || c == ']') {
			if (--depth == 0)
				return i == length - 1;
		}
	}
	return false;
}

/* Makes a pipe whose ends are above 2: where the caller closed one of those, a pipe would take its place. */
static int make_pipe(int ends[2])
{
	int low[2];

	if (pipe2(low, O_CLOEXEC))
		return -1;
	ends[0] = fcntl(low[0], F_DUPFD_CLOEXEC, 3);
	ends[1] = fcntl(low[1], F_DUPFD_CLOEXEC, 3);
	close(low[0]);
	close(low[1]);
	return ends[0] < 0 || ends[1] < 0 ? -1 : 0;
}

/*
 * The child's half of fork(): becomes the runtime, or sends the errno of what failed through `failure`.
 * Only async-signal-safe calls.
 */
__attribute__((noreturn)) static void become_runtime(char **arguments, char **environment, pid_t parent,
						     const sigset_t *mask, int out, int failure)
{
	int error;

	/* If the launcher died before this call, its signal has been missed: it is no longer our parent. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL))
		goto failed;
	if (getppid() != parent)
		_exit(EXIT_FAILURE);
	if (dup2(out, STDOUT_FILENO) < 0 || sigprocmask(SIG_SETMASK, mask, NULL))
		goto failed;
	execve(arguments[0], arguments, environment);
failed:
	error = errno;
	if (write(failure, &error, sizeof(error)) < 0)
		_exit(EXIT_FAILURE + 1);
	_exit(EXIT_FAILURE);
}

/*
 * Reads what is there, without waiting. Returns false when there will be no more: end, error, or too much, in which
 * case `too_long` is set.
 */
static bool collect(int fd, struct run *run)
{
	struct output *output = &run->output;

	for (;;) {
		ssize_t got;

		if (output->length == output->capacity) {
			size_t capacity = output->capacity ? 2 * output->capacity : 64 << 10;
			char *bytes = capacity <= OUTPUT_LIMIT ? realloc(output->bytes, capacity) : NULL;

			if (!bytes) {
				run->too_long = true;
				return false;
			}
			output->bytes = bytes;
			output->capacity = capacity;
		}
		got = read(fd, output->bytes + output->length, output->capacity - output->length);
		if (got > 0)
			output->length += (size_t)got;
		else if (got < 0 && errno == EINTR)
			continue;
		else
			return got < 0 && errno == EAGAIN;
	}
}

/*
 * Waits for the child's end, collects what it prints, passes signals on. Returns 0 or -errno.
 *
 * The child's end counts, not the end of its output: another process may hold that open.
 */
static int attend(pid_t child, int out, int signals, struct run *run)
{
	struct pollfd events[] = {
		{ .fd = signals, .events = POLLIN },
		{ .fd = out, .events = POLLIN },
	};

	for (;;) {
		struct signalfd_siginfo info;
		pid_t ended;

		if (poll(events, 2, -1) < 0 && errno != EINTR)
			return -errno;
		if (events[1].fd >= 0 && !collect(out, run)) {
			events[1].fd = -1;
			if (run->too_long)
				kill(child, SIGKILL);
		}
		while (read(signals, &info, sizeof(info)) == sizeof(info)) {
			if (info.ssi_signo != SIGCHLD)
				kill(child, (int)info.ssi_signo);
		}
		ended = waitpid(child, &run->status, WNOHANG);
		if (ended < 0 && errno != EINTR)
			return -errno;
		if (ended == child) {
			if (events[1].fd >= 0)
				collect(out, run);
			return 0;
		}
	}
}

/* Verbs whose success has something to say. */
static bool must_print(const char *verb)
{
	return !strcmp(verb, "ADD") || !strcmp(verb, "VERSION");
}

/* Passes the runtime's answer on, or says why there is none. Returns the exit status. */
static int answer(const char *verb, const struct run *run)
{
	const struct output *output = &run->output;
	int status;

	if (run->too_long)
		return answer_error("the runtime (%s) printed more than fits into memory or %d MiB, and was killed",
				    runtime_path, OUTPUT_LIMIT >> 20);
	if (WIFSIGNALED(run->status)) {
		int number = WTERMSIG(run->status);

		return answer_error("the runtime (%s) was killed by signal %d (%s)", runtime_path, number,
				    number == SIGKILL ? "out of memory?" : strsignal(number));
	}
	status = WEXITSTATUS(run->status);
	if (output->length == 0) {
		if (status == EXIT_SUCCESS && !must_print(verb))
			return EXIT_SUCCESS;
		return answer_error("the runtime (%s) exited with status %d and printed nothing", runtime_path, status);
	}
	if (!is_json_object(output))
		return answer_error("the runtime (%s) exited with status %d and printed something else than a JSON object: %.*s",
				    runtime_path, status, (int)(output->length < 200 ? output->length : 200),
				    output->bytes);
	/* A result that does not arrive is a failure: then the container runtime undoes the ADD. */
	if (!write_all(STDOUT_FILENO, output->bytes, output->length))
		return EXIT_FAILURE;
	return status == EXIT_SUCCESS ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int be_plugin(const char *verb, char **arguments, char **environment)
{
	int out[2], failure[2], signals, error, result;
	struct run run = { 0 };
	sigset_t handled, before;
	pid_t parent = getpid();
	pid_t child;

	/* An ignored SIGCHLD, which a caller can hand down, would take the child's status away. */
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&handled);
	sigaddset(&handled, SIGCHLD);
	sigaddset(&handled, SIGTERM);
	sigaddset(&handled, SIGINT);
	sigaddset(&handled, SIGHUP);
	sigaddset(&handled, SIGQUIT);
	/* Blocked before there is a child: none can come between. */
	if (sigprocmask(SIG_BLOCK, &handled, &before))
		return answer_error("cannot start the runtime: sigprocmask: %s", strerror(errno));
	signals = signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0 || make_pipe(out) || make_pipe(failure))
		return answer_error("cannot start the runtime: %s", strerror(errno));

	child = fork();
	if (child < 0)
		return answer_error("cannot start the runtime: fork: %s", strerror(errno));
	if (child == 0)
		become_runtime(arguments, environment, parent, &before, out[1], failure[1]);
	close(out[1]);
	close(failure[1]);
	/* Only now: the child must not inherit it. A reader that went away is then an error of write(). */
	signal(SIGPIPE, SIG_IGN);

	if (read(failure[0], &error, sizeof(error)) == sizeof(error)) {
		waitpid(child, NULL, 0);
		return answer_error("cannot start the runtime: %s: %s", loader_path, strerror(error));
	}
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	result = attend(child, out[0], signals, &run);
	if (result < 0)
		return answer_error("lost the runtime: %s", strerror(-result));
	return answer(verb, &run);
}

int main(int argc, char **argv, char **environment)
{
	const char *verb = getenv("CNI_COMMAND");
	bool is_plugin = verb && *verb;
	char **arguments;

	find_runtime();
	clean_environment(environment);
	arguments = runtime_arguments(argc, argv);
	if (!arguments) {
		if (is_plugin)
			return answer_error("cannot start the runtime: %s", strerror(errno));
		perror("remora");
		return EXIT_FAILURE;
	}
	if (access(runtime_path, R_OK)) {
		static const char format[] = "the runtime is not there: %s: %s (it belongs beside the launcher, in "
					     BESIDE "/, or in " INSTALLED ")";

		if (is_plugin)
			return answer_error(format, runtime_path, strerror(errno));
		fprintf(stderr, "remora: ");
		fprintf(stderr, format, runtime_path, strerror(errno));
		fputc('\n', stderr);
		return EXIT_FAILURE;
	}
	if (is_plugin)
		return be_plugin(verb, arguments, environment);
	execve(arguments[0], arguments, environment);
	fprintf(stderr, "remora: cannot start the runtime: %s: %s\n", loader_path, strerror(errno));
	return EXIT_FAILURE;
}
