/* A workload for tests of the testbed itself, in an image with nothing else in it.
 *   greeter serve PORT        answers every connection with the name of its host
 *   greeter ask ADDRESS PORT  prints such an answer
 *   greeter say WORD          prints the word, then sleeps
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static struct sockaddr_in address_of(const char *host, const char *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port)) };

	if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
		fprintf(stderr, "greeter: %s is not an IPv4 address\n", host);
		exit(2);
	}
	return address;
}

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static int serve(const char *port)
{
	struct sockaddr_in address = address_of("0.0.0.0", port);
	int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
	char name[256] = "";

	gethostname(name, sizeof(name) - 1);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 16) < 0)
		return fail("greeter: listen");
	printf("serving as %s\n", name);
	for (;;) {
		int connection = accept(listener, NULL, NULL);

		if (connection < 0)
			return fail("greeter: accept");
		dprintf(connection, "%s\n", name);
		close(connection);
	}
}

static int ask(const char *host, const char *port)
{
	struct sockaddr_in address = address_of(host, port);
	struct timeval patience = { .tv_sec = 2 };
	int connection = socket(AF_INET, SOCK_STREAM, 0);
	char answer[256];
	ssize_t n;

	setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(connection, (struct sockaddr *)&address, sizeof(address)) < 0)
		return fail("greeter: connect");
	n = read(connection, answer, sizeof(answer));
	if (n <= 0)
		return fail("greeter: read");
	return write(1, answer, (size_t)n) == n ? 0 : 1;
}

static void leave(int signal)
{
	(void)signal;
	_exit(0);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGTERM, leave); /* the first process of a container has no default disposition */
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(argv[2]);
	if (argc == 4 && !strcmp(argv[1], "ask"))
		return ask(argv[2], argv[3]);
	if (argc == 3 && !strcmp(argv[1], "say")) {
		puts(argv[2]);
		for (;;)
			pause();
	}
	fprintf(stderr, "greeter: serve PORT | ask ADDRESS PORT | say WORD\n");
	return 2;
}
