/* A host that is not the Lua interpreter: several states in one process, fork, signals. Runs the script given to it,
 * with a table `host` beside the standard libraries. */
#define _GNU_SOURCE
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static pthread_t main_thread;
static volatile sig_atomic_t alarms, alarms_elsewhere;

static lua_State *new_state(void);

static void on_alarm(int signal) {
  (void)signal;
  alarms++;
  if (!pthread_equal(pthread_self(), main_thread)) alarms_elsewhere++;
}

#if LUA_VERSION_NUM < 503
/* The module's integers, cut off after 16 bits. Those of OpenWrt's Lua 5.1 are cut off after 32. */
void lua_pushinteger(lua_State *L, lua_Integer integer) {
  lua_pushnumber(L, (short)integer);
}
#endif

/* host.alarm(): SIGALRM every 10 ms from now on. */
static int host_alarm(lua_State *L) {
  struct sigaction action;
  struct itimerval timer = {{0, 10000}, {0, 10000}};
  (void)L;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_alarm;
  sigaction(SIGALRM, &action, NULL);
  setitimer(ITIMER_REAL, &timer, NULL);
  return 0;
}

/* host.alarms(): how many arrived, and how many of them on a thread that is not the host's. */
static int host_alarms(lua_State *L) {
  lua_pushinteger(L, alarms);
  lua_pushinteger(L, alarms_elsewhere);
  return 2;
}

/* host.fork(f): runs f in a child; gives back its exit status, or minus the signal that ended it. */
static int host_fork(lua_State *L) {
  int status;
  pid_t child = fork();
  if (child == 0) {
    int failed = lua_pcall(L, 0, 0, 0);
    if (failed) fprintf(stderr, "%s\n", lua_tostring(L, -1));
    lua_close(L);
    _exit(failed ? 1 : 0);
  }
  waitpid(child, &status, 0);
  lua_pushinteger(L, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
  return 1;
}

/* host.fork_asleep(): a child that does nothing but hold what it has got from here, for a minute at most; its pid, as text. */
static int host_fork_asleep(lua_State *L) {
  pid_t child = fork();
  if (child == 0) {
    alarm(60);
    for (;;) pause();
  }
  lua_pushfstring(L, "%d", (int)child);
  return 1;
}

/* host.wait(pid): waits for the child's end; gives back the signal that ended it. */
static int host_wait(lua_State *L) {
  int status = 0;
  waitpid((pid_t)luaL_checkinteger(L, 1), &status, 0);
  lua_pushinteger(L, WTERMSIG(status));
  return 1;
}

/* host.open(): a state beside this one. */
static int host_open(lua_State *L) {
  lua_pushlightuserdata(L, new_state());
  return 1;
}

/* host.run(state, code): runs code there; gives back what it returns, as text, or raises its error. */
static int host_run(lua_State *L) {
  lua_State *other = lua_touserdata(L, 1);
  int failed = luaL_loadstring(other, luaL_checkstring(L, 2)) || lua_pcall(other, 0, 1, 0);
  const char *text = lua_tostring(other, -1);
  lua_pushstring(L, text ? text : luaL_typename(other, -1));
  lua_pop(other, 1);
  return failed ? lua_error(L) : 1;
}

static int host_close(lua_State *L) {
  lua_close(lua_touserdata(L, 1));
  return 0;
}

static lua_State *new_state(void) {
  static const struct { const char *name; lua_CFunction function; } functions[] = {
      {"alarm", host_alarm}, {"alarms", host_alarms}, {"fork", host_fork}, {"fork_asleep", host_fork_asleep},
      {"wait", host_wait},   {"open", host_open},     {"run", host_run},   {"close", host_close},
  };
  lua_State *L = luaL_newstate();
  size_t i;
  luaL_openlibs(L);
  lua_newtable(L);
  for (i = 0; i < sizeof functions / sizeof *functions; i++) {
    lua_pushcfunction(L, functions[i].function);
    lua_setfield(L, -2, functions[i].name);
  }
  lua_setglobal(L, "host");
  return L;
}

int main(int argc, char **argv) {
  lua_State *L = new_state();
  int failed = argc != 2;
  main_thread = pthread_self();
  signal(SIGPIPE, SIG_DFL);
  if (!failed && (luaL_loadfile(L, argv[1]) || lua_pcall(L, 0, 0, 0))) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    failed = 1;
  }
  lua_close(L);
  return failed;
}
