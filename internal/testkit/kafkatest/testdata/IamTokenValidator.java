package pulsegrid.test;

import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.*;
import javax.security.auth.callback.*;
import javax.security.auth.login.AppConfigurationEntry;
import org.apache.kafka.common.security.auth.AuthenticateCallbackHandler;
import org.apache.kafka.common.security.oauthbearer.*;

/**
 * For tests only. Takes what MSK's IAM listener takes: an OAUTHBEARER token that is the base64url of a presigned
 * kafka-cluster:Connect URL. It checks shape, action and expiry, not the signature. The principal is the access key id.
 */
public class IamTokenValidator implements AuthenticateCallbackHandler {
  public void configure(Map<String, ?> configs, String mechanism, List<AppConfigurationEntry> jaas) {}
  public void close() {}

  public void handle(Callback[] callbacks) throws UnsupportedCallbackException {
    for (Callback cb : callbacks) {
      if (cb instanceof OAuthBearerValidatorCallback v) {
        try {
          validate(v);
        } catch (RuntimeException e) {
          v.error("invalid_token", null, null);
        }
      } else if (cb instanceof OAuthBearerExtensionsValidatorCallback x) {
        x.inputExtensions().map().forEach((k, ignored) -> x.valid(k));
      } else {
        throw new UnsupportedCallbackException(cb);
      }
    }
  }

  private static void validate(OAuthBearerValidatorCallback v) {
    String token = v.tokenValue();
    String url = new String(Base64.getUrlDecoder().decode(token), StandardCharsets.UTF_8);
    Map<String, String> query = new HashMap<>();
    for (String kv : URI.create(url).getQuery().split("&")) {
      String[] p = kv.split("=", 2);
      query.put(p[0], p.length > 1 ? p[1] : "");
    }
    if (!"kafka-cluster:Connect".equals(query.get("Action")) || query.get("X-Amz-Signature") == null) {
      v.error("invalid_token", null, null);
      return;
    }
    long start = LocalDateTime.parse(query.get("X-Amz-Date"), DateTimeFormatter.ofPattern("yyyyMMdd'T'HHmmss'Z'"))
        .toInstant(ZoneOffset.UTC).toEpochMilli();
    long end = start + 1000L * Long.parseLong(query.get("X-Amz-Expires"));
    if (end < System.currentTimeMillis()) {
      v.error("expired", null, null);
      return;
    }
    String principal = query.get("X-Amz-Credential").split("/")[0];
    v.token(new OAuthBearerToken() {
      public String value() { return token; }
      public Set<String> scope() { return Set.of(); }
      public long lifetimeMs() { return end; }
      public String principalName() { return principal; }
      public Long startTimeMs() { return start; }
    });
  }
}
