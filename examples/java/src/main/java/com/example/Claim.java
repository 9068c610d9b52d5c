package com.example;

import com.example.firstcome.ApiClient;
import com.example.firstcome.ApiException;
import com.example.firstcome.api.ClaimsApi;
import com.example.firstcome.api.OperatorsApi;
import com.example.firstcome.model.Accepted;
import com.example.firstcome.model.NewCouponBody;
import com.example.firstcome.model.OncePer;
import com.example.firstcome.model.Problem;
import com.example.firstcome.model.Schedule;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;

/**
 * Creates a coupon of 3, claims it as 5 users, and fails unless exactly 3 get it. The client is generated:
 *
 * <pre>
 * set -a; . ../../target/run/env; set +a
 * mvn compile exec:java
 * </pre>
 */
public final class Claim {
  private static final int QUANTITY = 3;

  private static ApiClient client() {
    ApiClient client = new ApiClient();
    client.updateBaseUri(System.getenv("API_URL"));
    return client;
  }

  private static long createCoupon() throws Exception {
    ApiClient client = client();
    client.setRequestInterceptor(request -> request.header("Authorization", "Bearer " + System.getenv("OPS_TOKEN")));
    NewCouponBody coupon = new NewCouponBody();
    coupon.setName("Java");
    coupon.setQuantity(QUANTITY);
    coupon.setOncePer(OncePer.COUPON);
    coupon.setWaitingList(0);
    String schedule = "{\"type\": \"once\", \"opens_at\": \"2026-01-01T00:00:00Z\"}";
    coupon.setSchedule(client.getObjectMapper().readValue(schedule, Schedule.class));
    // With the same key, a retry creates no second coupon.
    String key = UUID.randomUUID().toString();
    return repeat(() -> new OperatorsApi(client).create(coupon, key, null)).getId();
  }

  private interface Request<T> {
    T send() throws ApiException;
  }

  /** Repeats a request while the system is unavailable. */
  private static <T> T repeat(Request<T> request) throws ApiException, InterruptedException {
    while (true) {
      try {
        return request.send();
      } catch (ApiException refused) {
        if (refused.getCode() != 503) {
          throw refused;
        }
        Thread.sleep(1000 * refused.getResponseHeaders().firstValueAsLong("Retry-After").orElse(1));
      }
    }
  }

  /** A retry is always safe: a user gets at most one slot, however often the claim is sent. */
  private static String claim(ApiClient client, long coupon, String user) throws Exception {
    try {
      Object answer = repeat(() -> new ClaimsApi(client).claim(coupon, user)).getActualInstance();
      return answer instanceof Accepted ? "accepted" : answer.getClass().getSimpleName();
    } catch (ApiException refused) {
      return client.getObjectMapper().readValue(refused.getResponseBody(), Problem.class).getCode().toString();
    }
  }

  public static void main(String[] arguments) throws Exception {
    long coupon = createCoupon();
    ApiClient client = client();
    Map<String, Integer> answers = new TreeMap<>();
    for (int user = 1; user <= QUANTITY + 2; user += 1) {
      answers.merge(claim(client, coupon, "java-" + user), 1, Integer::sum);
    }
    System.out.println("Java: " + answers);
    if (!answers.equals(Map.of("accepted", QUANTITY, "sold_out", 2))) {
      System.exit(1);
    }
  }
}
