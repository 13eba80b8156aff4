// The checker finds every kind of fault that it is there for.
#include "tests/chaos/history.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gma::chaos {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Three answers of five tokens with an Append between the second and the third.
SeenSession Good() {
  SeenSession session;
  uint64_t sequence = 0;
  int64_t context = 0;
  for (int turn = 0; turn < 4; ++turn) {
    SeenTurn seen;
    if (turn == 2) {
      seen.what = "append";
      seen.events = {{++sequence, SeenEvent::kNoToken}};
      context += 4;
    } else {
      seen.what = "generate";
      seen.end = "length";
      seen.events.push_back({++sequence, SeenEvent::kNoToken});
      for (int32_t i = 0; i < 5; ++i) seen.events.push_back({++sequence, 10 * turn + i});
      seen.events.push_back({++sequence, SeenEvent::kNoToken});
      context += 9;
    }
    seen.context_tokens = context;
    seen.last_sequence = sequence;
    session.turns.push_back(seen);
  }
  session.state = "row";
  return session;
}

TEST(Checker, TheSameIsNoFault) {
  EXPECT_THAT(FaultsOf(Good()), IsEmpty());
  EXPECT_THAT(Compare(Good(), Good()), IsEmpty());
}

TEST(Checker, FindsAGap) {
  SeenSession seen = Good();
  seen.turns[1].events.erase(seen.turns[1].events.begin() + 3);
  EXPECT_THAT(FaultsOf(seen),
              Contains(HasSubstr("turn 1 (generate): event 12 came after 10: a gap")));
  EXPECT_THAT(Compare(seen, Good()), Contains(HasSubstr("token 2 is 13, undisturbed 12")));
}

TEST(Checker, FindsAGapBetweenTurns) {
  SeenSession seen = Good();
  seen.turns[3].events.erase(seen.turns[3].events.begin());  // Started
  EXPECT_THAT(FaultsOf(seen),
              Contains(HasSubstr("turn 3 (generate): event 17 came after 15: a gap")));
}

TEST(Checker, FindsARepeat) {
  SeenSession seen = Good();
  seen.turns[0].events.insert(seen.turns[0].events.begin() + 3, seen.turns[0].events[2]);
  EXPECT_THAT(FaultsOf(seen), Contains(HasSubstr("event 3 came after 3: a repeat")));
}

TEST(Checker, FindsEventsOutOfOrder) {
  SeenSession seen = Good();
  std::swap(seen.turns[0].events[2], seen.turns[0].events[3]);
  EXPECT_THAT(FaultsOf(seen), SizeIs(2));
}

TEST(Checker, FindsAnotherToken) {
  SeenSession seen = Good();
  ++seen.turns[3].events[5].token;
  EXPECT_THAT(FaultsOf(seen), IsEmpty());
  EXPECT_THAT(Compare(seen, Good()),
              Contains(HasSubstr("turn 3 (generate): token 4 is 35, undisturbed 34")));
}

TEST(Checker, FindsALostTurn) {
  // Its numbers go to those after it, so only the undisturbed run tells.
  SeenSession seen = Good();
  seen.turns.erase(seen.turns.begin() + 2);
  for (SeenEvent& event : seen.turns[2].events) --event.sequence;
  --seen.turns[2].last_sequence;
  EXPECT_THAT(FaultsOf(seen), IsEmpty());
  EXPECT_THAT(Compare(seen, Good()), Contains(HasSubstr("the undisturbed turn is append")));
  EXPECT_THAT(Compare(seen, Good()), Contains(HasSubstr("had 3 turns, undisturbed 4")));
}

TEST(Checker, FindsATurnThatWasFedTwice) {
  SeenSession seen = Good();
  seen.turns[2].context_tokens += 4;
  EXPECT_THAT(Compare(seen, Good()),
              Contains(HasSubstr("turn 2 (append): left a context of 26 tokens, undisturbed 22")));
}

TEST(Checker, FindsAnEarlyEnd) {
  SeenSession seen = Good();
  seen.turns[1].end = "cancelled";
  EXPECT_THAT(Compare(seen, Good()),
              Contains(HasSubstr("ended by cancelled, undisturbed by length")));
}

TEST(Checker, FindsWhatTheServerSaysOtherwise) {
  SeenSession seen = Good();
  seen.turns[3].last_sequence += 1;
  EXPECT_THAT(FaultsOf(seen),
              Contains(HasSubstr("the last event that came is 22, the server's is 23")));
}

TEST(Checker, FindsAnotherState) {
  SeenSession seen = Good();
  seen.state[0] ^= 1;
  EXPECT_THAT(Compare(seen, Good()), Contains(HasSubstr("state")));
}

TEST(Checker, AnApplicationThatGaveUpIsAFault) {
  SeenSession seen = Good();
  seen.error = "NOT_FOUND: no session";
  EXPECT_THAT(FaultsOf(seen), Contains(HasSubstr("gave up after 4 turns: NOT_FOUND")));
}

}  // namespace
}  // namespace gma::chaos
