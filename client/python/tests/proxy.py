"""A proxy on loopback that cuts connections after random numbers of bytes."""

import random
import selectors
import socket
import struct
import threading
import time

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: no goodbye, as of a process that dies


class CuttingProxy:
    """Carries connections to `target`, which may change; cuts up to `cuts` of them."""

    def __init__(self, target: str, cuts: int, seed: int | None = None) -> None:
        self.target = target
        self._random = random.Random(seed)
        self._left = cuts
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def left(self) -> int:
        """Cuts to come."""
        return self._left

    def cut_all(self) -> None:
        """Cuts what runs now."""
        with self._lock:
            for client in self._open:
                client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Takes no more connections, and cuts those there are."""
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            # Some connections end in their greeting, most within an answer.
            low, high = (20, 620) if self._random.random() < 0.25 else (400, 3400)
            budget = self._random.randrange(low, high) if self._left > 0 else 1 << 60
            threading.Thread(target=self._carry, args=(client, budget), daemon=True).start()

    def _carry(self, client: socket.socket, budget: int) -> None:
        try:
            host, port = self.target.split(":")
            server = socket.create_connection((host, int(port)))
        except OSError:
            client.close()
            return
        with self._lock:
            self._open.add(client)
        other = {client: server, server: client}
        with selectors.DefaultSelector() as selector:
            for end in other:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(end, selectors.EVENT_READ)
            try:
                while budget > 0:
                    for key, _ in selector.select():
                        data = key.fileobj.recv(max(min(budget, 16384), 1))
                        if not data:
                            raise ConnectionResetError
                        other[key.fileobj].sendall(data)
                        budget -= len(data)
                with self._lock:
                    self._left -= 1
            except OSError:
                pass
        with self._lock:
            self._open.discard(client)
        # A reset together with data is noticed by gRPC's pings alone, after seconds: test_kill has
        # such ones.
        time.sleep(0.02)
        for end in other:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.close()
