/* Preloaded into the gateway: a disk and a name resolution that hang while a file exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <unistd.h>

static void hang_while(const char *variable) {
    const char *file = getenv(variable);
    while (file && access(file, F_OK) == 0) usleep(10000);
}

int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    hang_while("HANG_DISK");
    return real(fd);
}

int fdatasync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    hang_while("HANG_DISK");
    return real(fd);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    hang_while("HANG_NAMES");
    return real(node, service, hints, found);
}
