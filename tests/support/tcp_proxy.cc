#include "tests/support/tcp_proxy.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/check.h"

namespace gma::testing {
namespace {

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

int Socket() {
  const int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  GMA_CHECK(made >= 0);
  const int on = 1;
  setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return made;
}

// What a process that dies leaves: no goodbye.
void Reset(int socket) {
  const linger at_once = {.l_onoff = 1, .l_linger = 0};
  setsockopt(socket, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  close(socket);
}

// False: the other side is gone.
bool WriteAll(int socket, const char* data, ssize_t size) {
  while (size > 0) {
    const ssize_t written = send(socket, data, static_cast<size_t>(size), MSG_NOSIGNAL);
    if (written <= 0) return false;
    data += written;
    size -= written;
  }
  return true;
}

}  // namespace

TcpProxy::TcpProxy(int target_port, std::function<int64_t()> budget)
    : target_port_(target_port), budget_(std::move(budget)), listener_(Socket()) {
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  GMA_CHECK(bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0);
  GMA_CHECK(listen(listener_, SOMAXCONN) == 0);
  GMA_CHECK(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { Accept(); });
}

TcpProxy::~TcpProxy() {
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
  }
  shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  close(listener_);
  CutAll();
  // Nobody adds to the list any more.
  for (Connection& connection : connections_) connection.thread.join();
}

void TcpProxy::CutAll() {
  absl::MutexLock lock(&mutex_);
  for (const Connection& connection : connections_) {
    if (connection.client >= 0) shutdown(connection.client, SHUT_RDWR);
  }
}

void TcpProxy::Accept() {
  for (;;) {
    // A program that the test starts must not keep connections open that are cut here.
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) return;
    const int server = Socket();
    const sockaddr_in address = Loopback(target_port_);
    if (connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      Reset(client);
      close(server);
      continue;
    }
    absl::MutexLock lock(&mutex_);
    if (closing_) {
      Reset(client);
      close(server);
      return;
    }
    connections_.push_back({.client = client, .server = server, .budget = budget_(), .thread = {}});
    Connection& connection = connections_.back();
    connection.thread = std::thread([this, &connection] { Carry(connection); });
  }
}

void TcpProxy::Carry(Connection& connection) {
  std::array<pollfd, 2> ends = {{{connection.client, POLLIN, 0}, {connection.server, POLLIN, 0}}};
  std::array<char, 16384> buffer;
  bool open = true;
  while (open && connection.budget > 0) {
    if (poll(ends.data(), ends.size(), -1) < 0) break;
    for (size_t i = 0; i < ends.size() && open; ++i) {
      if (ends[i].revents == 0) continue;
      const size_t most =
          std::min(buffer.size(), static_cast<size_t>(std::max<int64_t>(connection.budget, 1)));
      const ssize_t size = recv(ends[i].fd, buffer.data(), most, 0);
      open = size > 0 && WriteAll(ends[1 - i].fd, buffer.data(), size);
      if (open) connection.budget -= size;
    }
  }
  if (open) ++cuts_;
  absl::MutexLock lock(&mutex_);
  Reset(std::exchange(connection.client, -1));
  Reset(connection.server);
}

}  // namespace gma::testing
